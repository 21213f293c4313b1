"""What a router decides, in the two forms the rest of the program needs.

`Choice` is what a router returns for one block, compact enough to compute with: k
slots a token. `Routing` is what a forward pass returns to its caller, for all blocks
and all experts. Both are plain values; nothing is recorded on the side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx


class Choice(NamedTuple):
    """The experts that each token of one block uses.

    Attributes:
        weights: `[..., k]` float32, the weight of each slot.
        slots: `[..., k]` integer, the position in `among` of the expert in each slot;
            None where slot i always holds `among[i]` (every expert is used).
        among: The n experts to choose from, in ascending order.
        probabilities: `[..., n]` float32, softmax of the router's logits over `among`.
        normalised: Whether every token's weights sum to 1.
    """

    weights: mx.array
    slots: mx.array | None
    among: tuple[int, ...]
    probabilities: mx.array
    normalised: bool

    def one_hot(self) -> mx.array:
        """`[..., k, n]` float32: 1 where a slot holds an expert."""
        if self.slots is None:
            return mx.eye(len(self.among))
        positions = mx.arange(len(self.among))
        return (self.slots[..., None] == positions).astype(mx.float32)

    def routing(self, experts: int) -> Routing:
        """The same decision for all E experts, arrays `[..., E]`."""
        if self.slots is None:
            weights, chosen = self.weights, mx.ones_like(self.weights)
        else:
            hot = self.one_hot()
            weights, chosen = (self.weights[..., None] * hot).sum(-2), hot.sum(-2)
        fields = (weights, chosen, self.probabilities)
        return Routing(*(_spread(field, self.among, experts) for field in fields))


class Routing(NamedTuple):
    """How every token was routed, by every adapted block or by one of them.

    Attributes:
        weights: `[layers, batch, tokens, E]` float32 (one block: no first axis); 0 for
            experts not chosen. Each token's weights sum to 1 for k >= 2.
        chosen: Same shape, 1 for the experts a token uses.
        probabilities: Same shape; softmax over the experts the selection allows, 0
            for the others.
    """

    weights: mx.array
    chosen: mx.array
    probabilities: mx.array


def fixed_choice(weights: tuple[float, ...], x: mx.array) -> Choice:
    """The same weights for every token of `x`; experts of weight 0 do not run.

    Args:
        weights: One an expert, at least 0; not all 0.
        x: `[..., dims]`, for its leading shape.
    """
    among = tuple(i for i, weight in enumerate(weights) if weight > 0)
    given = mx.array([weights[i] for i in among])
    spread = mx.broadcast_to(given, (*x.shape[:-1], len(among)))
    return Choice(spread, None, among, spread, normalised=math.fsum(weights) == 1.0)


def _spread(values: mx.array, among: tuple[int, ...], experts: int) -> mx.array:
    """`[..., n]` values of the experts `among` -> `[..., E]`, 0 elsewhere."""
    if among == tuple(range(experts)):
        return values
    hot = mx.array(among)[:, None] == mx.arange(experts)  # [n, E]
    return values @ hot.astype(values.dtype)


def joined(routings: list[Routing]) -> Routing:
    """The routing of all rows from that of each part: `[layers, batch, tokens, E]`."""
    if len(routings) == 1:
        return routings[0]
    fields = zip(*routings, strict=True)
    return Routing(*(mx.concatenate(list(field), axis=1) for field in fields))
