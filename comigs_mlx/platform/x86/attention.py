"""Softmax attention with its gradient, whose weights the backward pass makes again.

MLX's own attention does the same on a CPU, with the slow exponential.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from comigs_mlx.platform.x86.exponential import exp

HIDDEN = -1e30
"""A score that leaves no weight."""


def fits(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> bool:
    """Tell whether `attention` can compute this: no bias, sink or packed cache."""
    plain = mask is None or isinstance(mask, str) or mask.dtype == mx.bool_
    return plain and sinks is None and not hasattr(cache, "bits")


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Compute mlx-lm's `scaled_dot_product_attention`, where it `fits`.

    Args:
        queries: The queries, `[batch, heads, tokens, dims]`.
        keys: The keys, `[batch, groups, context, dims]`; heads share groups evenly.
        values: The values, `[batch, groups, context, value dims]`.
        cache: The cache that mlx-lm passes; it is not used.
        scale: The factor that the scores are multiplied by.
        mask: "causal", or true where a token may look; None lets it look everywhere.
        sinks: The attention sinks, always None where it `fits`.

    Returns:
        The result of the heads, `[batch, heads, tokens, value dims]`.
    """
    batch, heads, tokens, _ = queries.shape
    groups, context = keys.shape[1:3]
    shape = (batch, groups, heads // groups, tokens, context)
    if isinstance(mask, str):
        mask = mx.arange(context - tokens, context)[:, None] >= mx.arange(context)
    elif mask is not None:
        mask = mx.broadcast_to(mask, (batch, heads, tokens, context)).reshape(shape)

    def weights(q: mx.array, k: mx.array) -> mx.array:
        scores = (q @ k.swapaxes(-1, -2)).reshape(shape)
        if mask is not None:
            scores = mx.where(mask, scores, HIDDEN)
        powers = mx.contiguous(exp(scores - scores.max(-1, keepdims=True)))
        return (powers / powers.sum(-1, keepdims=True)).reshape(*q.shape[:-1], context)

    @mx.custom_function
    def mixed(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return weights(q, k) @ v

    @mixed.vjp
    def gradients(
        primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, y: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        q, k, v = primals
        p = weights(q, k)
        slope = cotangent @ v.swapaxes(-1, -2)
        slope = p * (slope - (cotangent * y).sum(-1, keepdims=True))
        return (
            slope @ k,
            slope.swapaxes(-1, -2) @ q,
            p.swapaxes(-1, -2) @ cotangent,
        )

    grouped = (scale * queries).reshape(batch, groups, -1, queries.shape[-1])
    y: Any = mixed(grouped, keys, values)
    return y.reshape(batch, heads, tokens, -1)
