"""Every command refuses what its base model has no position or embedding for."""

import json
import shutil

import mlx.core as mx
import pytest

from comigs_mlx import evaluate, generate, simulate, train

TOO_LONG = "reads at most 128 tokens at once: set --seq-len to at most 128"


@pytest.fixture(scope="module")
def small_vocabulary(tiny_folder, tmp_path_factory):
    """A base whose embedding has not been resized for the end token, number 256."""
    folder = tmp_path_factory.mktemp("bases") / "small"
    shutil.copytree(tiny_folder(), folder)
    weights = mx.load(str(folder / "model.safetensors"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:256]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 256}))
    return folder


@pytest.fixture
def users(text_folder, tmp_path):
    for name in ("ann", "ben"):
        shutil.copytree(text_folder, tmp_path / "users" / name)
    return tmp_path / "users"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_train_and_simulate_with_long_windows(
    cli, tiny_folder, text_folder, users, tmp_path, family
):
    common = {"model": tiny_folder(family), "seq_len": 129, "batch_size": 1}
    given = {"data": text_folder, "run": tmp_path / "run", "steps": 2}
    code, _, stderr = cli(train.main, **common, **given)
    assert (code, TOO_LONG in stderr.splitlines()[-1]) == (2, True)
    assert not (tmp_path / "run").exists()
    given = {"users": users, "method": "local", "rounds": 1, "out": tmp_path / "out"}
    code, _, stderr = cli(simulate.main, **common, **given)
    assert (code, TOO_LONG in stderr.splitlines()[-1]) == (2, True)
    assert not (tmp_path / "out").exists()


def test_evaluate_and_generate_with_long_windows(cli, trained, text_folder):
    run = trained("gpt2")
    given = {"run": run, "data": text_folder, "seq_len": 129}
    code, stdout, stderr = cli(evaluate.main, **given)
    assert (code, stdout) == (2, "")
    assert TOO_LONG in stderr.splitlines()[-1]
    for prompt, command in (("x" * 400, []), ("x" * 130, ["--ignore-chat-template"])):
        code, stdout, stderr = cli(generate.main, *command, run=run, prompt=prompt)
        assert (code, stdout) == (2, "")
        assert "reads at most 128: shorten it" in stderr.splitlines()[-1]


def test_an_answer_ends_where_the_table_of_positions_does(cli, trained):
    given = {"run": trained("gpt2"), "prompt": "x" * 120, "max_tokens": 50}
    code, stdout, _ = cli(generate.main, "--ignore-chat-template", **given)
    assert code == 0
    assert len(stdout.encode()) <= 8 * 4 + 1  # at most 8 tokens of a byte each


def test_the_longest_windows_that_fit(cli, tiny_folder, text_folder, tmp_path):
    given = {"model": tiny_folder("gpt2"), "data": text_folder, "steps": 1}
    given |= {"run": tmp_path / "run", "seq_len": 128, "batch_size": 1}
    code, _, stderr = cli(train.main, **given)
    assert code == 0, stderr


def test_tokens_without_an_embedding(
    cli, small_vocabulary, text_folder, users, tmp_path
):
    expected = "gives token 256, but the model knows only 0 to 255"
    common = {"model": small_vocabulary, "seq_len": 16, "batch_size": 1}
    given = {"data": text_folder, "run": tmp_path / "run", "steps": 2}
    code, _, stderr = cli(train.main, **common, **given)
    assert (code, expected in stderr.splitlines()[-1]) == (2, True)
    given = {"users": users, "method": "local", "rounds": 1, "out": tmp_path / "out"}
    code, _, stderr = cli(simulate.main, **common, **given)
    assert (code, expected in stderr.splitlines()[-1]) == (2, True)
