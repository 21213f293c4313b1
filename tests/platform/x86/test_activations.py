"""Each activation's value and gradient, against float64 and against MLX's own.

Float32 has 24 bits; about ten of these roundings, some of numbers up to 5 times the
result, make 2e-6 of one more than the result.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.activations import swiglu as mlx_swiglu

from comigs_mlx.platform.x86.activations import gelu_approx, silu, swiglu

CLOSE = 2e-6
X = np.concatenate(
    [np.linspace(-12, 12, 4001), np.linspace(-80, 80, 801), [0.0, -1.2784645, 1e-6]]
).astype(np.float32)


def exact_silu(x):
    return x / (1 + np.exp(-x))


def exact_gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def slope(function, x, step=1e-5):
    """By differences in float64: right to about 1e-10."""
    return (function(x + step) - function(x - step)) / (2 * step)


def assert_close(found, expected, allowed=CLOSE):
    found, expected = (np.array(a).astype(np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= allowed * (1 + np.abs(expected))).all()


def gradients(function, arrays, cotangent):
    _, found = mx.vjp(function, [mx.array(a) for a in arrays], [mx.array(cotangent)])
    return found


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ONE = {
    "silu": (silu, nn.silu, exact_silu),
    "gelu": (gelu_approx, nn.gelu_approx, exact_gelu),
}


@pytest.mark.parametrize(("cheap", "slow", "exact"), ONE.values(), ids=ONE)
class TestOneArgument:
    def test_value(self, cheap, slow, exact):
        found = cheap(mx.array(X))
        assert_close(found, exact(X.astype(np.float64)))
        assert_close(found, slow(mx.array(X)))

    def test_gradient(self, cheap, slow, exact):
        cotangent = normal(X.size)
        (found,) = gradients(cheap, [X], cotangent)
        assert_close(found, cotangent * slope(exact, X.astype(np.float64)))
        (expected,) = gradients(slow, [X], cotangent)
        assert_close(found, expected)

    def test_large_inputs(self, cheap, slow, exact):
        x = np.array([-1e4, -300.0, 300.0, 1e4], np.float32)
        expected = [0.0, 0.0, 300.0, 1e4]
        assert_close(cheap(mx.array(x)), expected)
        (found,) = gradients(cheap, [x], np.ones_like(x))
        assert_close(found, [0.0, 0.0, 1.0, 1.0])

    def test_compiled_is_the_same(self, cheap, slow, exact):
        cotangent = mx.array(normal(X.size))

        def both(x):
            (y,), (gradient,) = mx.vjp(cheap, [x], [cotangent])
            return y, gradient

        for found, expected in zip(
            mx.compile(both)(mx.array(X)), both(mx.array(X)), strict=True
        ):
            assert_close(found, expected, 1e-6)

    def test_shape_stays(self, cheap, slow, exact):
        x = normal(2, 3, 5)
        assert cheap(mx.array(x)).shape == x.shape
        assert gradients(cheap, [x], x)[0].shape == x.shape


class TestSwiglu:
    X = normal(X.size, seed=1)

    def test_value(self):
        found = swiglu(mx.array(X), mx.array(self.X))
        assert_close(found, exact_silu(X.astype(np.float64)) * self.X)
        assert_close(found, mlx_swiglu(mx.array(X), mx.array(self.X)))

    def test_both_gradients(self):
        cotangent = normal(X.size, seed=2)
        found = gradients(swiglu, [X, self.X], cotangent)
        gate = X.astype(np.float64)
        assert_close(found[0], cotangent * self.X * slope(exact_silu, gate))
        assert_close(found[1], cotangent * exact_silu(gate))
        expected = gradients(mlx_swiglu, [X, self.X], cotangent)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs)

    def test_the_two_arguments_are_not_alike(self):
        """What would pass the tests above only by mixing them up in both places."""
        gate, x = mx.array([2.0]), mx.array([-3.0])
        assert swiglu(gate, x).item() == pytest.approx(-6 / (1 + np.exp(-2)), rel=1e-6)
        assert swiglu(x, gate).item() == pytest.approx(-6 / (1 + np.exp(3)), rel=1e-6)

    def test_large_gates(self):
        gate = np.array([-1e4, 1e4], np.float32)
        x = np.array([2.0, 2.0], np.float32)
        assert_close(swiglu(mx.array(gate), mx.array(x)), [0.0, 2e4])
        found = gradients(swiglu, [gate, x], np.ones_like(x))
        assert_close(found[0], [0.0, 2.0])
        assert_close(found[1], [0.0, 1e4])

    def test_compiled_is_the_same(self):
        def both(gate, x):
            (y,), slopes = mx.vjp(swiglu, [gate, x], [x])
            return y, *slopes

        arrays = mx.array(X), mx.array(self.X)
        for found, expected in zip(
            mx.compile(both)(*arrays), both(*arrays), strict=True
        ):
            assert_close(found, expected, 1e-6)
