"""The decision of a router, in the two forms that the rest of the program needs.

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
        weights: The weight of each slot, `[..., k]` float32.
        slots: The position in `among` of the expert in each slot, `[..., k]` integer;
            None where slot i always holds `among[i]` (every expert is used).
        among: The n experts to choose from, in ascending order.
        probabilities: The softmax of the router's logits over `among`, `[..., n]`
            float32.
        normalised: Whether every token's weights sum to 1.
    """

    weights: mx.array
    slots: mx.array | None
    among: tuple[int, ...]
    probabilities: mx.array
    normalised: bool

    def one_hot(self) -> mx.array:
        """Return 1 where a slot holds an expert, else 0, `[..., k, n]` float32."""
        if self.slots is None:
            return mx.eye(len(self.among))
        positions = mx.arange(len(self.among))
        return (self.slots[..., None] == positions).astype(mx.float32)

    def routing(self, experts: int) -> Routing:
        """Return the same decision for all E experts, arrays `[..., E]`."""
        if self.slots is None:
            weights, chosen = self.weights, mx.ones_like(self.weights)
        else:
            hot = self.one_hot()
            weights, chosen = (self.weights[..., None] * hot).sum(-2), hot.sum(-2)
        fields = (weights, chosen, self.probabilities)
        return Routing(*(_spread(field, self.among, experts) for field in fields))


class Routing(NamedTuple):
    """The routing of every token, by every adapted block or by one of them.

    Attributes:
        weights: The weight of each expert, 0 if it is not chosen, `[layers, batch,
            tokens, E]` float32 (one block: no first axis). Each token's weights sum to
            1 for k >= 2.
        chosen: 1 for the experts that a token uses, else 0, of the same shape.
        probabilities: The softmax over the experts that the selection allows, 0 for the
            others, of the same shape.
    """

    weights: mx.array
    chosen: mx.array
    probabilities: mx.array


def fixed_choice(weights: tuple[float, ...], x: mx.array) -> Choice:
    """Choose with the same weights for every token; experts of weight 0 do not run.

    Args:
        weights: The weight of each expert, at least 0; not all of them 0.
        x: An array `[..., dims]` that gives the leading shape.
    """
    among = tuple(i for i, weight in enumerate(weights) if weight > 0)
    positive = mx.array([weights[i] for i in among])
    spread = mx.broadcast_to(positive, (*x.shape[:-1], len(among)))
    return Choice(spread, None, among, spread, normalised=math.fsum(weights) == 1.0)


def _spread(values: mx.array, among: tuple[int, ...], experts: int) -> mx.array:
    """Spread values `[..., n]` of the experts `among` to `[..., E]`, 0 elsewhere."""
    if among == tuple(range(experts)):
        return values
    hot = mx.array(among)[:, None] == mx.arange(experts)  # [n, E]
    return values @ hot.astype(values.dtype)


def joined(routings: list[Routing]) -> Routing:
    """Join the routings of parts of a batch's rows: `[layers, batch, tokens, E]`."""
    if len(routings) == 1:
        return routings[0]
    fields = zip(*routings, strict=True)
    return Routing(*(mx.concatenate(list(field), axis=1) for field in fields))
