"""Activations of MLPs with their gradients, for which only their inputs are kept."""

from __future__ import annotations

import math

import mlx.core as mx

from comigs_mlx.platform.x86.exponential import sigmoid

STEEPNESS = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715
"""A factor of the GELU by tanh: x * sigmoid(STEEPNESS * (x + CUBIC * x^3))."""


@mx.custom_function
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Compute silu(gate) * x, as mlx-lm's function does."""
    return gate * sigmoid(gate) * x


@swiglu.vjp
def _swiglu_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    gate, x = primals
    s = sigmoid(gate)
    return cotangent * x * s * (1 + gate * (1 - s)), cotangent * gate * s


@mx.custom_function
def silu(x: mx.array) -> mx.array:
    """Compute x * sigmoid(x), as MLX's function does."""
    return x * sigmoid(x)


@silu.vjp
def _silu_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    s = sigmoid(x)
    return cotangent * s * (1 + x * (1 - s))


@mx.custom_function
def gelu_approx(x: mx.array) -> mx.array:
    """Compute MLX's function with (1 + tanh(z)) / 2 = sigmoid(2 z)."""
    return x * sigmoid(STEEPNESS * (x + CUBIC * x * x * x))


@gelu_approx.vjp
def _gelu_approx_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    s = sigmoid(STEEPNESS * (x + CUBIC * x * x * x))
    slope = STEEPNESS * (1 + 3 * CUBIC * x * x)
    return cotangent * s * (1 + x * (1 - s) * slope)
