"""Fused models, loaded by mlx-lm with all that belongs to them."""

import json

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import mlx_lm.utils
import numpy as np
import pytest

from comigs_mlx.exports import merging
from comigs_mlx.exports.formats import fused
from comigs_mlx.exports.job import Job
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests import tiny
from tests.model.naive import randomise

TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])


@pytest.fixture
def job(tiny_folder):
    """(family, bits of the base, bits of the export) -> a job, and its logits."""

    def make(family="llama", bits=None, to=None):
        base = load_base(str(tiny_folder(family, bits)))
        mixture = Mixture(base.model, ExpertOptions(rank=2))
        randomise(mixture.model)
        adapter = merging.merge(mixture, [[0.4, 0.6]] * 2, "stack")
        with merging.in_place(mixture, adapter):
            expected, _ = mixture(TOKENS)
        with mixture.selected("base"):
            before, _ = mixture(TOKENS)
        assert mx.abs(expected - before).max() > 1e-2
        return Job(base, mixture, adapter, "mine", "float32", to), expected

    return make


@pytest.mark.parametrize(("family", "bits"), [("llama", 4), ("gpt2", None)])
def test_mlx_lm_computes_what_the_mixture_does(job, tmp_path, family, bits):
    """Of a quantised base, too: it is dequantised, and nothing is rounded away."""
    given, expected = job(family, bits)
    fused.write(given, tmp_path)
    model, tokenizer = mlx_lm.load(str(tmp_path))
    np.testing.assert_allclose(model(TOKENS), expected, atol=1e-5)
    assert tokenizer.chat_template == tiny.CHATML
    assert "quantization" not in json.loads((tmp_path / "config.json").read_text())


def test_bits_on_request(job, tmp_path):
    given, expected = job(to=8)
    fused.write(given, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization"]["bits"] == 8
    with fused.read_back(given, tmp_path) as written, written.selected("base"):
        logits, _ = written(TOKENS)
    error = mx.abs(logits - expected).max()
    assert 1e-4 < error < 0.1
    plain, _ = mlx_lm.load(str(tmp_path))
    assert isinstance(plain.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    np.testing.assert_allclose(plain(TOKENS), logits, atol=1e-4)


def test_shards_and_their_index(job, tmp_path, monkeypatch):
    cut = mlx_lm.utils.make_shards

    def one_tensor_each(weights):
        return [{name: array} for name, array in cut(weights)[0].items()]

    monkeypatch.setattr(mlx_lm.utils, "make_shards", one_tensor_each)
    given, expected = job()
    fused.write(given, tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert {tmp_path / name for name in index["weight_map"].values()} == set(
        tmp_path.glob("model-*.safetensors")
    )
    with fused.read_back(given, tmp_path) as written, written.selected("base"):
        np.testing.assert_allclose(written(TOKENS)[0], expected, atol=1e-5)
