"""Attention and its gradients against MLX's own and against numpy in float64."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.platform.x86.attention import attention, fits

SCALE = 0.3
CLOSE = 3e-6
"""Of the largest element: float32 sums of at most 40 products, some 24 roundings."""

SHAPES = {
    "plain": {},
    "grouped": {"heads": 6, "groups": 2},
    "one group": {"heads": 4, "groups": 1},
    "context": {"context": 15},
    "values": {"value_dims": 5},
    "everything": {"heads": 6, "groups": 3, "context": 12, "value_dims": 3},
    "one token": {"tokens": 1, "context": 6},
}


def inputs(
    batch=2, heads=4, groups=4, tokens=7, context=None, dims=8, value_dims=None, std=1.0
):
    """Queries, keys, values; and a direction of the result."""
    context, value_dims = context or tokens, value_dims or dims
    rng = np.random.default_rng(0)
    shapes = [
        (batch, heads, tokens, dims),
        (batch, groups, context, dims),
        (batch, groups, context, value_dims),
        (batch, heads, tokens, value_dims),
    ]
    arrays = [mx.array(rng.normal(size=s).astype(np.float32)) for s in shapes]
    return (std * arrays[0], *arrays[1:3]), arrays[3]


def window(tokens, context):
    """A sliding window of 4 on top of the causal mask, `[tokens, context]`."""
    at, to = np.arange(context - tokens, context)[:, None], np.arange(context)
    return (at >= to) & (at < to + 4)


def padded(batch, heads, tokens, context):
    """The first keys of the second row hidden, for every query that has others."""
    mask = np.broadcast_to(window(tokens, context), (batch, 1, tokens, context)).copy()
    mask[1, :, :, : context - tokens] = False
    return mask


def by_head(batch, heads, tokens, context):
    """Another mask for every head; each query sees at least itself."""
    rng = np.random.default_rng(3)
    mask = rng.random((batch, heads, tokens, context)) < 0.6
    return mask | np.eye(tokens, context, context - tokens, dtype=bool)


MASKS = {
    "none": lambda *shape: None,
    "causal": lambda *shape: "causal",
    "window": lambda *shape: mx.array(window(*shape[2:])),
    "padded": lambda *shape: mx.array(padded(*shape)),
    "by head": lambda *shape: mx.array(by_head(*shape)),
}


def mask_of(name, arrays):
    q, k, _ = arrays
    return MASKS[name](*q.shape[:3], k.shape[2])


def mlx_attention(q, k, v, cache, scale, mask):
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def with_gradients(function, arrays, cotangent, mask):
    run = lambda q, k, v: function(q, k, v, None, SCALE, mask)
    (y,), gradients = mx.vjp(run, list(arrays), [cotangent])
    return [y, *gradients]


def exact(arrays, mask):
    """Numpy, float64, one head at a time."""
    q, k, v = (np.array(a).astype(np.float64) for a in arrays)
    batch, heads, tokens, _ = q.shape
    context, share = k.shape[2], heads // k.shape[1]
    if isinstance(mask, str):
        mask = np.tril(np.ones((tokens, context)), context - tokens)
    seen = np.ones((tokens, context)) if mask is None else np.array(mask)
    seen = np.broadcast_to(seen, (batch, heads, tokens, context)).astype(bool)
    y = np.zeros((batch, heads, tokens, v.shape[-1]))
    for b in range(batch):
        for h in range(heads):
            scores = np.exp(SCALE * q[b, h] @ k[b, h // share].T) * seen[b, h]
            y[b, h] = scores / scores.sum(-1, keepdims=True) @ v[b, h // share]
    return y


def assert_close(found, expected, allowed=CLOSE):
    found, expected = (np.array(a).astype(np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= allowed * np.abs(expected).max()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestAttention:
    def test_value_equals_numpy(self, shape, mask):
        arrays, _ = inputs(**shape)
        mask = mask_of(mask, arrays)
        found = attention(*arrays, None, SCALE, mask)
        assert_close(found, exact(arrays, mask))

    def test_value_and_gradients_equal_mlx(self, shape, mask):
        arrays, cotangent = inputs(**shape)
        mask = mask_of(mask, arrays)
        found = with_gradients(attention, arrays, cotangent, mask)
        expected = with_gradients(mlx_attention, arrays, cotangent, mask)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs)


def test_gradients_are_slopes():
    """Central differences in float64, as MLX's own gradient could be wrong as well."""
    arrays, cotangent = inputs(**SHAPES["everything"])
    gradients = with_gradients(attention, arrays, cotangent, "causal")[1:]
    rng, step = np.random.default_rng(5), 1e-5
    exactly = [np.array(a).astype(np.float64) for a in arrays]
    for i, gradient in enumerate(gradients):
        way = rng.normal(size=gradient.shape)

        def at(by, i=i, way=way):
            moved = [a + by * way if i == j else a for j, a in enumerate(exactly)]
            return (exact(moved, "causal") * np.array(cotangent)).sum()

        slope = (at(step) - at(-step)) / (2 * step)
        found = (np.array(gradient) * way).sum()
        assert found == pytest.approx(slope, abs=1e-5 * np.abs(gradient).sum().item())


def test_large_scores_leave_one_weight():
    """Scores of about 1e4: one key takes all, and nothing overflows."""
    arrays, cotangent = inputs(std=1e4)
    found = with_gradients(attention, arrays, cotangent, "causal")
    expected = with_gradients(mlx_attention, arrays, cotangent, "causal")
    assert_close(found[0], expected[0])
    assert_close(found[3], expected[3])
    assert all(mx.isfinite(array).all() for array in found)


def test_hidden_values_do_not_count():
    """Not even huge ones: what a hidden score leaves is below 1e-37."""
    (q, k, v), _ = inputs()
    later = mx.arange(7)[:, None] > 3
    changed = q, mx.where(later, 50, k), mx.where(later, 1e6, v)
    expected = attention(q, k, v, None, 1, "causal")
    found = attention(*changed, None, 1, "causal")
    assert_close(found[:, :, :4], expected[:, :, :4])
    assert found[:, :, 4:].abs().max().item() > 1e5


@pytest.mark.parametrize("mask", ["causal", "padded"])
def test_compiled_is_the_same(mask):
    arrays, cotangent = inputs(**SHAPES["everything"])
    mask = mask_of(mask, arrays)

    def run(q, k, v, cotangent):
        return with_gradients(attention, (q, k, v), cotangent, mask)

    compiled = mx.compile(run)(*arrays, cotangent)
    for found, expected in zip(compiled, run(*arrays, cotangent), strict=True):
        assert_close(found, expected, 1e-6)


class TestFits:
    def fits(self, mask=None, cache=None, **more):
        return fits(*inputs()[0], cache=cache, scale=SCALE, mask=mask, **more)

    @pytest.mark.parametrize("mask", [None, "causal", mx.ones((7, 7), mx.bool_)])
    def test_takes_what_attention_computes(self, mask):
        assert self.fits(mask)
        assert self.fits(mask, cache=SimpleNamespace(offset=3))

    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int32])
    def test_refuses_masks_that_are_added(self, dtype):
        assert not self.fits(mx.zeros((7, 7), dtype))

    def test_refuses_sinks(self):
        assert not self.fits(sinks=mx.zeros(4))

    def test_refuses_a_packed_cache(self):
        from mlx_lm.models.cache import QuantizedKVCache

        assert not self.fits(cache=QuantizedKVCache())

    def test_takes_a_plain_cache(self):
        from mlx_lm.models.cache import KVCache

        assert self.fits(cache=KVCache())
