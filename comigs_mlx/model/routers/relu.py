"""Experts that switch on by themselves, and a base that speaks where none does.

    a = relu(R x + b);  the k largest of a;  w = a / max(sum a, 1)

The base takes what w lacks to 1, so that a token which no expert wants gets the base's
own MLP. Two penalties, where routers learn, make neighbouring tokens use the same
experts (z = R x + b, s = sigmoid(100 z), p = a / sum a):

    locality   mean over experts of the binary cross-entropy of s_{t-1} against s_t
    chunk      mean over experts of 1 - exp(sum of ln(1 - p_t + 1e-5) over 64 tokens)

Source: BlockFFN, Song et al., arXiv 2507.08771, and the authors' code. Different here:
its RMSNorm with a learnt gain would scale the base and is left out, sums above 1 are
divided instead; b is 0.5 at first, or a share 2^-E of tokens would use no expert and
teach nothing; the chunk penalty's weight is constant. Nothing is faster by it: the base
products are shared anyway. It is meant for simulations with E >= 4.

    python -m comigs_mlx.train --data notes --specialists 3 --top-k 4 --router-type relu
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.config import option
from comigs_mlx.model.routers.topk import INIT_STD
from comigs_mlx.model.routing import (
    Ask,
    Choice,
    largest_slots,
    linear_logits,
    restricted,
    tilted,
    with_copy,
)

SPARSE = RESTS = True

ROWS = ("weight", "bias")

CHUNK, STEEPNESS, EPS = 64, 100.0, 1e-5
START = 0.5
"""The bias of every expert at first."""


@dataclass(frozen=True)
class Options:
    """What `relu:locality=...,chunk=...` sets."""

    locality: float = option(2e-3, "weight of the locality penalty", "C")
    chunk: float = option(0.05, "weight of the chunk penalty", "C")


class Router(nn.Module):
    """`weight` is `[E, dims]` and `bias` `[E]`, float32."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options = Options()
    ):
        super().__init__()
        self.weight = INIT_STD * mx.random.normal((experts, dims), key=key)
        self.bias = mx.full((experts,), START)
        self._options = options

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose at most `ask.k` experts for every token of `x` `[..., dims]`."""
        logits = linear_logits(self.weight, x, ask) + restricted(self.bias, ask)
        logits = tilted(logits, ask)
        active = nn.relu(logits)
        slots = largest_slots(logits, ask.k)
        weights = mx.take_along_axis(active, slots, axis=-1)
        weights = weights / mx.maximum(weights.sum(-1, keepdims=True), 1)
        penalty = self._penalty(logits, active) if ask.training else None
        probabilities = mx.softmax(logits, axis=-1)
        return Choice(weights, slots, ask.among, probabilities, False, penalty)

    def _penalty(self, logits: mx.array, active: mx.array) -> mx.array:
        """Both penalties of logits and activations `[..., tokens, n]`, each token's."""
        near = self._options.locality * locality(logits)
        return near + self._options.chunk * chunk_use(active)


def locality(logits: mx.array) -> mx.array:
    """How much each token's experts differ from those of the token before.

    Args:
        logits: `[..., tokens, n]`.

    Returns:
        `[..., tokens]` nats; 0 for the first token.
    """
    steep = STEEPNESS * logits
    before, target = steep[..., :-1, :], mx.sigmoid(steep[..., 1:, :])
    each = mx.logaddexp(before, mx.array(0.0)) - target * before
    return mx.concatenate([mx.zeros_like(logits[..., :1, 0]), each.mean(-1)], axis=-1)


def chunk_use(active: mx.array) -> mx.array:
    """The share of experts that each chunk of tokens uses, softly counted.

    Args:
        active: `[..., tokens, n]`, at least 0.

    Returns:
        `[..., tokens]`, from 0 to 1, the same for all tokens of a chunk.
    """
    *batch, tokens, n = active.shape
    p = active / mx.maximum(active.sum(-1, keepdims=True), EPS)
    # 0 for a token without any expert, and then nothing may be added for it.
    unused = mx.log(mx.minimum(1 - p + EPS, 1.0))
    chunks = math.ceil(tokens / CHUNK)
    width = [(0, 0)] * len(batch) + [(0, chunks * CHUNK - tokens), (0, 0)]
    sums = mx.pad(unused, width).reshape(*batch, chunks, CHUNK, n).sum(-2)
    used = (1 - mx.exp(sums)).mean(-1)  # [..., chunks]
    return mx.repeat(used, CHUNK, axis=-1)[..., :tokens]


def split(rows: Mapping[str, mx.array], expert: int) -> dict[str, mx.array]:
    """Give one expert a copy behind the last one: relu(z / 2) + relu(z / 2) = relu(z).

    Args:
        rows: The parameters of `ROWS`.
        expert: The expert whose row and bias are halved and copied.
    """
    halved = {}
    for name, array in rows.items():
        share = mx.where(mx.arange(array.shape[0]) == expert, 0.5, 1.0)
        array = array * share.reshape(-1, *[1] * (array.ndim - 1))
        halved[name] = with_copy(array, expert)
    return halved
