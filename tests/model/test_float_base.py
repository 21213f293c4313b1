"""A base in float32: the same weights, the same numbers, and no copies that stay."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.model import float_base, params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions

TOKENS = mx.array([[1, 5, 9, 2], [3, 3, 7, 0]])

KINDS = [
    pytest.param(None, mx.float16, id="float16"),
    pytest.param(None, mx.bfloat16, id="bfloat16"),
    pytest.param(4, mx.float32, id="4-bit"),
    pytest.param(4, mx.bfloat16, id="4-bit of bfloat16"),
    pytest.param(8, mx.float16, id="8-bit of float16"),
]


def build(bits, dtype, family="llama"):
    model = families.build(family)
    model.set_dtype(dtype)
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
    model.freeze()
    return model


def both(bits, dtype, family="llama"):
    kept, unpacked = build(bits, dtype, family), build(bits, dtype, family)
    float_base.keep(kept)
    float_base.unpack_on_use(unpacked)
    return kept, unpacked


def gradient(model):
    """Of the logits' squares, in the experts."""
    mixture = Mixture(model, ExpertOptions(specialists=1))
    loss = params.value_and_grad(
        mixture.model, lambda: mixture(TOKENS)[0].square().mean()
    )
    _, gradients = loss(params.select(mixture.model, params.ROLES))
    return params.flatten(gradients)


def unpacked_by_hand(module):
    """The rows of 4-bit weights by MLX's own words: scale times number plus bias."""
    packed = np.array(module.weight)
    shifts = np.arange(0, 32, module.bits, dtype=np.uint32)
    numbers = (packed[..., None] >> shifts) & (2**module.bits - 1)
    numbers = numbers.reshape(len(packed), -1, module.group_size).astype(np.float32)
    scales = np.array(module.scales.astype(mx.float32))[..., None]
    biases = np.array(module.biases.astype(mx.float32))[..., None]
    return (scales * numbers + biases).reshape(len(packed), -1)


@pytest.mark.parametrize(("bits", "dtype"), KINDS)
class TestBothWays:
    def test_compute_the_same_in_float32(self, bits, dtype):
        kept, unpacked = both(bits, dtype)
        y, z = kept(TOKENS), unpacked(TOKENS)
        assert y.dtype == z.dtype == mx.float32
        assert mx.array_equal(y, z)

    def test_have_the_same_gradients(self, bits, dtype):
        ours, theirs = (gradient(model) for model in both(bits, dtype))
        assert ours.keys() == theirs.keys()
        assert any(mx.abs(g).max() > 0 for g in ours.values())
        for path, g in ours.items():
            assert mx.allclose(g, theirs[path], rtol=1e-5, atol=1e-7), path

    def test_are_counted_before_they_are_there(self, bits, dtype):
        model = build(bits, dtype)
        assert float_base.is_slow(model)
        expected = float_base.float32_bytes(model)
        float_base.keep(model)
        arrays = params.flatten(model.parameters()).values()
        assert sum(a.nbytes for a in arrays) == expected
        assert not float_base.is_slow(model)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_exactly_those_that_were_packed(bits):
    model = build(bits, mx.bfloat16)
    expected = unpacked_by_hand(model.layers[0].mlp.up_proj)
    float_base.keep(model)
    np.testing.assert_array_equal(
        np.array(model.layers[0].mlp.up_proj.weight), expected
    )


def test_half_precision_weights_keep_their_values():
    model = build(None, mx.bfloat16)
    before = {
        n: a.astype(mx.float32) for n, a in params.flatten(model.parameters()).items()
    }
    float_base.keep(model)
    for name, array in params.flatten(model.parameters()).items():
        assert mx.array_equal(array, before[name]), name


def test_a_quantised_model_says_what_mlx_says_of_it():
    plain = build(4, mx.float32)
    kept, _ = both(4, mx.float32)
    assert mx.allclose(kept(TOKENS), plain(TOKENS), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_unpacked_is_what_the_small_base_stays(family):
    _, unpacked = both(None, mx.float16, family)
    matrices = {
        array.dtype
        for name, array in params.flatten(unpacked.parameters()).items()
        if array.ndim == 2
    }
    assert matrices == {mx.float16}
    assert unpacked(TOKENS).dtype == mx.float32


def test_a_float32_base_is_left_alone():
    assert not float_base.is_slow(families.build("llama"))


@pytest.mark.parametrize("compiled", [False, True])
def test_no_unpacked_weight_waits_for_the_gradient(compiled):
    """MLX makes room for the next steps of its plan, not for all 128 layers."""
    layers = [nn.Linear(128, 128, bias=False) for _ in range(128)]
    model = nn.Sequential(*layers)
    model.set_dtype(mx.float16)
    float_base.unpack_on_use(model)
    gradient = mx.grad(lambda x: model(x).sum())
    gradient = mx.compile(gradient) if compiled else gradient
    x = mx.ones((1, 128))
    mx.eval(gradient(x))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(gradient(x))
    one = 128 * 128 * mx.float32.size
    assert mx.get_peak_memory() - before < 64 * one


@pytest.mark.parametrize("group", [32, 64])
def test_bytes_are_known_from_config_alone(group):
    model = build(None, mx.bfloat16)
    stored = sum(a.nbytes for a in params.flatten(model.parameters()).values())
    half = float_base.described_bytes({"torch_dtype": "bfloat16"}, stored)
    assert half == float_base.float32_bytes(model)
    assert float_base.described_bytes({"dtype": "float32"}, stored) == stored
    big = nn.Linear(512, 512, bias=False)
    big.set_dtype(mx.bfloat16)
    packed = nn.QuantizedLinear.from_linear(big, group, 4)
    stored = sum(a.nbytes for a in params.flatten(packed.parameters()).values())
    config = {"quantization": {"bits": 4, "group_size": group}}
    assert float_base.described_bytes(config, stored) == 512 * 512 * 4


def test_widen_keeps_what_fits_into_memory(monkeypatch):
    model = build(4, mx.float32)
    size = float_base.float32_bytes(model)
    monkeypatch.setattr(mx, "get_memory_limit", lambda: 2 * size)
    assert float_base.widen(model)
    assert isinstance(model.layers[0].mlp.up_proj, nn.Linear)
    model = build(4, mx.float32)
    monkeypatch.setattr(mx, "get_memory_limit", lambda: 2 * size - 1)
    assert not float_base.widen(model)
    assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)
