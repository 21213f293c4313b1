"""A router that knows how the blocks before it routed: a GRU through the depth.

    u_i = P_i x_i;  h_i = GRU(u_i, h_{i-1}), h_0 = 0;  z_i = G_i h_i;  then as `topk`

    GRU:  r = sigmoid(W_r u + b_r + U_r h)        s = sigmoid(W_s u + b_s + U_s h)
          n = tanh(W_n u + b_n + r (U_n h + c))   h' = (1 - s) n + s h

P_i `[p, dims]` and G_i `[E, p]` belong to block i, the GRU to all blocks. h runs from
block to block for each token alone, and nothing runs from token to token: so no cache
is needed. It has about L p dims parameters, against E dims L of `topk`.

Source: RMoE, Qiu et al., ICLR 2025, arXiv 2408.06793 and the authors' code. Different
here: p = 64 where the paper has 128 for larger models, and the balance is the one that
all routers have.

    python -m comigs_mlx.train --data notes --router-type recurrent:size=64
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.config import option
from comigs_mlx.model.routers.topk import INIT_STD
from comigs_mlx.model.routing import Ask, Choice, largest, restricted

ROWS = ("outward",)


@dataclass(frozen=True)
class Options:
    """What `recurrent:size=...` sets."""

    size: int = option(64, "length p of the vector that runs through the blocks", "P")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if self.size < 1:
            yield f"size {self.size} must be at least 1"


class GRU(nn.Module):
    """The parameters that all blocks share, float32.

    Attributes:
        weight: W of r, s and n, one below the other, `[3 p, p]`.
        hidden: U of r, s and n, `[3 p, p]`.
        bias: b of r, s and n, `[3 p]`.
        hidden_bias: The vector c, `[p]`.
    """

    def __init__(self, size: int, key: mx.array):
        super().__init__()
        bound = 1 / math.sqrt(size)
        shapes = ((3 * size, size), (3 * size, size), (3 * size,), (size,))
        self.weight, self.hidden, self.bias, self.hidden_bias = (
            mx.random.uniform(-bound, bound, shape, key=each)
            for shape, each in zip(shapes, mx.random.split(key, 4), strict=True)
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """All of them, as `step` takes them."""
        return self.weight, self.hidden, self.bias, self.hidden_bias


def step(u: mx.array, h: mx.array, *gru: mx.array) -> mx.array:
    """The next h of `u` and h, all `[..., p]`; `gru` are `GRU.arrays`."""
    weight, hidden, bias, hidden_bias = gru
    r_u, s_u, n_u = (u @ weight.T + bias).split(3, axis=-1)
    r_h, s_h, n_h = (h @ hidden.T).split(3, axis=-1)
    r, s = mx.sigmoid(r_u + r_h), mx.sigmoid(s_u + s_h)
    n = mx.tanh(n_u + r * (n_h + hidden_bias))
    return (1 - s) * n + s * h


class Router(nn.Module):
    """A block's part: `inward` is P `[p, dims]`, `outward` is G `[E, p]`, float32."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options = Options()
    ):
        super().__init__()
        inward, outward = mx.random.split(key)
        bound = 1 / math.sqrt(dims)
        shape = (options.size, dims)
        self.inward = mx.random.uniform(-bound, bound, shape, key=inward)
        shape = (experts, options.size)
        self.outward = INIT_STD * mx.random.normal(shape, key=outward)

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose for `x` `[..., dims]`; the carry is h, and the GRU's arrays."""
        h, *gru = ask.carry
        h = step(x.astype(mx.float32) @ self.inward.T, h, *gru)
        logits = h @ restricted(self.outward, ask, axis=0).T
        return largest(logits, ask)._replace(carry=(h, *gru))


class FirstRouter(Router):
    """The first adapted block's, which owns the GRU."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options = Options()
    ):
        own, shared = mx.random.split(key)
        super().__init__(dims, experts, own, options)
        self.gru = GRU(options.size, shared)

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """As the others, from h = 0."""
        h = mx.zeros((*x.shape[:-1], self.inward.shape[0]))
        return super().__call__(x, ask._replace(carry=(h, *self.gru.arrays())))
