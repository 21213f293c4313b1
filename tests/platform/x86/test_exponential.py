"""The cheap exponential against numpy in float64, and where it is used."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.platform import switch
from comigs_mlx.platform.x86.exponential import exp, fastest_exp, sigmoid

LOWEST, HIGHEST = -87.0, 88.0
"""Beyond these `exp` stays what it is at them."""

BETWEEN = np.linspace(LOWEST, HIGHEST, 700_001).astype(np.float32)
NEAR = np.linspace(-1, 1, 200_001).astype(np.float32)


def found(function, x):
    """`function` of float32 values, as float64."""
    y = function(mx.array(np.asarray(x, np.float32)))
    assert y.dtype == mx.float32
    return np.array(y).astype(np.float64)


def relative_error(function, exact, x):
    return np.abs(found(function, x) / exact(x.astype(np.float64)) - 1)


def exact_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def turns():
    """Every float32 within 4 of a point where 2^n becomes 2^(n+1), ascending."""
    points = (np.arange(-125, 126) + 0.5) * np.log(2)
    points = points[(points > LOWEST) & (points < HIGHEST)].astype(np.float32)
    steps = np.arange(-4, 5)
    return (
        (points.view(np.int32)[:, None] + np.sign(points)[:, None] * steps)
        .astype(np.int32)
        .view(np.float32)
    )


class TestExp:
    def test_error_near_zero_is_that_of_the_polynomial_and_three_roundings(self):
        assert relative_error(exp, np.exp, NEAR).max() <= 1e-7 + 3 * 2**-24

    def test_error_grows_no_further_than_seven_millionths(self):
        error = relative_error(exp, np.exp, BETWEEN)
        assert error.max() <= 7e-6
        # x / log 2 is rounded to 24 bits, and so is the constant.
        allowed = 3e-7 + np.abs(BETWEEN.astype(np.float64)) * 2**-23
        assert (error <= allowed).all()

    def test_zero_gives_exactly_one(self):
        assert found(exp, [0.0, -0.0]).tolist() == [1.0, 1.0]

    def test_rises_across_every_turn_but_for_the_last_bits(self):
        rows = turns()
        assert len(rows) > 240
        y = found(exp, rows)
        assert (np.diff(rows) > 0).all()
        assert (np.diff(y) >= -3e-7 * y[:, 1:]).all()
        assert relative_error(exp, np.exp, rows).max() <= 7e-6

    def test_steps_wider_than_the_error_always_rise(self):
        assert (np.diff(found(exp, BETWEEN)) > 0).all()

    def test_stays_the_same_beyond_both_ends(self):
        low = found(exp, [LOWEST, -87.5, -1e4, -1e30, np.finfo(np.float32).min])
        high = found(exp, [HIGHEST, 88.5, 1e4, 1e30, np.finfo(np.float32).max])
        assert np.unique(low).size == np.unique(high).size == 1
        assert low[0] == pytest.approx(np.exp(LOWEST), rel=7e-6)
        assert high[0] == pytest.approx(np.exp(HIGHEST), rel=7e-6)

    def test_infinity_is_clipped_too(self):
        ends = found(exp, [LOWEST, HIGHEST])
        assert found(exp, [-np.inf, np.inf]).tolist() == ends.tolist()

    def test_is_never_zero_subnormal_or_infinite(self):
        y = found(exp, np.concatenate([BETWEEN, [-np.inf, np.inf, -1e9, 1e9]]))
        assert y.min() >= np.finfo(np.float32).tiny
        assert np.isfinite(y).all()

    def test_nan_stays_nan(self):
        """A step that has gone wrong must show in its loss."""
        assert np.isnan(found(exp, [np.nan, 0.0])).tolist() == [True, False]

    def test_shape_stays(self):
        assert exp(mx.zeros((2, 0, 3))).shape == (2, 0, 3)
        assert exp(mx.array(1.0)).shape == ()


class TestSigmoid:
    def test_equals_numpy(self):
        error = np.abs(found(sigmoid, BETWEEN) - exact_sigmoid(BETWEEN.astype(float)))
        assert error.max() <= 2e-7
        assert relative_error(sigmoid, exact_sigmoid, BETWEEN).max() <= 7e-6

    def test_is_exactly_half_at_zero_and_symmetric(self):
        assert found(sigmoid, [0.0]).tolist() == [0.5]
        total = found(sigmoid, BETWEEN) + found(sigmoid, -BETWEEN)
        assert np.abs(total - 1).max() <= 3e-7

    def test_ends(self):
        low = found(sigmoid, [-np.inf, -1e30, -1e4, -100.0])
        assert (low >= 0).all()
        assert (low <= 1e-37).all()
        assert found(sigmoid, [np.inf, 1e30, 1e4, 100.0]).tolist() == [1.0] * 4

    def test_nan_stays_nan(self):
        assert np.isnan(found(sigmoid, [np.nan])).all()


@pytest.mark.parametrize("function", [exp, sigmoid])
def test_compiled_is_the_same(function):
    """A compiler that took (y + c) - c for y would break the rounding."""
    x = np.concatenate([BETWEEN[::50], [-np.inf, np.inf]])
    compiled = found(mx.compile(function), x)
    assert np.abs(compiled / found(function, x) - 1).max() <= 3e-7


def test_the_fastest_is_the_cheap_one_on_x86_alone(monkeypatch):
    monkeypatch.setattr(switch, "x86_cpu", lambda: True)
    assert fastest_exp() is exp
    monkeypatch.setattr(switch, "x86_cpu", lambda: False)
    assert fastest_exp() is mx.exp
