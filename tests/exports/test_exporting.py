"""The flow of an export: weights, gap, refusal; and the command."""

import json

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import evaluate
from comigs_mlx.data.batches import Batch
from comigs_mlx.export import lines, main
from comigs_mlx.exports import merging
from comigs_mlx.runs.folder import RunFolder
from tests.exports.conftest import TRAINED

TOKENS = np.array([[3, 14, 15, 92, 65, 35], [89, 79, 32, 38, 46, 26]])


def test_what_loses_too_much_leaves_nothing(cli, trained, tmp_path):
    given = {"run": trained(**TRAINED), "format": "mlx", "max_gap": -9}
    code, _, told = cli(main, **given, out=tmp_path / "out")
    *_, error = told.splitlines()
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "more than --max-gap -9: nothing was written" in error
    assert "other --experts (generalist, specialist" in error
    assert "the router's mean weights in each block (generalist 0." in told


def test_mean_weights_are_those_of_the_tokens_that_count(trained):
    _, mixture = RunFolder(trained(**TRAINED)).load()
    mask = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]], np.float32)
    batch = Batch(TOKENS, mask, np.zeros_like(mask, np.int32))
    means = merging.mean_weights(mixture, "auto", [batch, batch])
    _, routing = mixture(mx.array(TOKENS)[:, :-1])
    every = np.array(routing.weights)  # [layers, batch, tokens, E]
    expected = [layer[mask > 0].mean(axis=0) for layer in every]
    np.testing.assert_allclose(means, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(means, axis=1), 1, atol=1e-6)


def test_the_gap_is_the_difference_that_evaluate_measures(cli, trained, tmp_path):
    """One expert alone is exact in an adapter, so its loss is the selection's."""
    run = trained(**TRAINED)
    _, said, _ = cli(evaluate.main, run=run, json=True)
    known = json.loads(said)["results"]
    given = {"run": run, "format": "mlx", "experts": "specialist", "max_gap": 1}
    code, said, err = cli(main, **given, out=tmp_path / "out", json=True)
    assert code == 0, err
    results = json.loads(said)
    expected = known["specialist"]["loss"] - known["mixture"]["loss"]
    assert results["gap"] == pytest.approx(expected, abs=1e-5)
    assert results["weights"] == {"generalist": 0.0, "specialist": 1.0}
    assert "the router weighs" not in err
    told = lines(results).splitlines()
    assert told[0] == f"test: {results['tokens']} tokens predicted"
    assert told[2].startswith(f"mlx       loss {results['loss']['export']:.4f}  gap ")
    assert " nats a token (95 %: " in told[2]
    assert "The base model's licence: not known; nothing says under which" in told[4]
    assert told[-1].startswith("mlx_lm.chat --model ")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"format": "onnx"}, "--format onnx: choose one of fused, gguf, mlx, peft"),
        ({"format": "mlx", "dtype": "q8_0"}, "writes float32, float16, bfloat16"),
        ({"format": "peft", "bits": 4}, "--bits is for --format fused alone"),
        ({"format": "fused", "bits": 7}, "MLX quantises to 2, 3, 4, 5, 6, 8"),
        ({"format": "mlx", "experts": "base"}, "base has no experts to merge"),
        ({}, "--format NAME is missing: one of fused, gguf, mlx, peft"),
    ],
)
def test_what_cannot_be_is_one_line(cli, trained, tmp_path, given, text):
    out = tmp_path / "out"
    code, _, told = cli(main, run=trained(**TRAINED), out=out, **given)
    assert code == 2
    assert text in told.splitlines()[-1]
    assert not out.exists()
