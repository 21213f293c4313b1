"""The exponential and the sigmoid, from cheap operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx

from comigs_mlx.platform import switch

ROUND = 1.5 * 2**23
"""The summand that rounds a float32 to the nearest integer, left in the lowest bits."""

POLYNOMIAL = (1.0, 0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647)
"""The coefficients of 2^f for f in [-1/2, 1/2], by weighted least squares, exact at
0; error 1e-7.
"""


def exp(x: mx.array) -> mx.array:
    """Compute e^x of float32, within [2e-38, 2e38]: 2^n by its bits times 2^f.

    The relative error is 2e-7 near 0, and at most 7e-6 (at |x| = 87).
    """
    y = mx.clip(x, -87.0, 88.0) * (1 / math.log(2))
    shifted = y + ROUND
    f = y - (shifted - ROUND)
    square = f * f
    c0, c1, c2, c3, c4, c5 = POLYNOMIAL
    high = (c2 + c3 * f) + square * (c4 + c5 * f)
    bits = mx.left_shift(mx.view(shifted, mx.int32), mx.array(23, mx.int32))
    power = mx.view(bits + mx.array(127 << 23, mx.int32), mx.float32)
    return ((c0 + c1 * f) + square * high) * power


def sigmoid(x: mx.array) -> mx.array:
    """Compute 1 / (1 + e^-x) in its own kernel: a fused one would repeat it."""
    return mx.contiguous(1 / (1 + exp(-x)))


def fastest_exp() -> Callable[[mx.array], mx.array]:
    """Return the exponential that is faster here: `exp`, or MLX's own."""
    return exp if switch.x86_cpu() else mx.exp
