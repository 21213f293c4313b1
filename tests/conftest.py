"""Fixtures of all tests. comigs_mlx is imported first: it loads the fast BLAS."""

import comigs_mlx  # noqa: F401  isort: skip

import json
import shutil
import warnings

import pytest

import tests.tiny as tiny
from comigs_mlx import command, train
from comigs_mlx.files import cache_dir


@pytest.fixture(autouse=True)
def _private_hub_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's Hugging Face folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """No test reads or writes the user's cache, except for the demo model in it."""
    demo, root = cache_dir() / "demo-model", tmp_path_factory.mktemp("cache")
    (root / "comigs_mlx").mkdir()
    if demo.is_dir():
        (root / "comigs_mlx" / "demo-model").symlink_to(demo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """(family, bits) -> the folder of a tiny random model, written once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(family="llama", bits=None):
        key = (family, bits)
        if key not in made:
            made[key] = tiny.write_model(root / f"{family}-{bits}", family, bits)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """train.txt, valid.txt and test.txt of a few hundred short documents."""
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command as a process would: (main, flags) -> exit code, stdout, stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back

    def run(main, *argv, **options):
        capsys.readouterr()
        code = 0
        try:
            command.run(lambda: main([*argv, *tiny.flags(**options)]))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def trained(tiny_folder, text_folder, tmp_path_factory):
    """(options of train) -> the folder of a run of the tiny model, trained once."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def folder(family="llama", bits=None, **options):
        key = (family, bits, *sorted(options.items()))
        if key not in made:
            made[key] = root / str(len(made))
            paths = {"model": tiny_folder(family, bits), "data": text_folder}
            given = {**tiny.TRAINING, **paths, "run": made[key], **options}
            train.main(tiny.flags(**given))
        return made[key]

    return folder


@pytest.fixture
def run(trained, tmp_path):
    """(name) -> a copy of a small trained run."""

    def copy(name="mine", **options):
        return shutil.copytree(trained(**options), tmp_path / name)

    return copy


@pytest.fixture
def write(tmp_path):
    """Write files (name -> text, bytes, or rows of JSONL) and return their folder."""

    def make(files, folder="data"):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            if isinstance(content, list):
                content = "".join(json.dumps(row) + "\n" for row in content)
            raw = content if isinstance(content, bytes) else content.encode()
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(raw)
        return root

    return make
