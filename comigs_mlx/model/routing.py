"""What a router is asked, and what it decides in the two forms that are needed.

`Ask` is what a block gives its router beside its input. `Choice` is what a router
returns for one block, compact enough to compute with: k slots a token. `Routing` is
what a forward pass returns to its caller, for all blocks and all experts. All are plain
values; nothing is recorded on the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import mlx.core as mx


class Ask(NamedTuple):
    """What a block is asked to choose.

    At use (`training` is False) a choice may depend on the token, `carry` and `tilt`
    alone: reading a prompt in chunks, from a cache or in a batch then changes nothing.

    Attributes:
        k: The slots that a token may use at most.
        among: The experts to choose from, in ascending order.
        training: Whether parameters learn from this call.
        noise: `[..., E]` float32, uniform on (0, 1); only while training, and only for
            routers that say `NOISE = True`.
        tilt: `[E]` or `[..., E]`, added to the logits; None adds nothing.
        carry: The arrays that the adapted block before handed on; () at the first one.
    """

    k: int
    among: tuple[int, ...]
    training: bool = False
    noise: mx.array | None = None
    tilt: mx.array | None = None
    carry: tuple[mx.array, ...] = ()


class Choice(NamedTuple):
    """The experts that each token of one block uses.

    Where the weights of a token sum to s, the base's own MLP takes 1 - s (the rest
    rule): so fresh experts change nothing, whatever a router does, and a router may
    abstain.

    Attributes:
        weights: The weight of each slot, `[..., k]` float32.
        slots: The position in `among` of the expert in each slot, `[..., k]` integer;
            None where slot i always holds `among[i]` (every expert is used).
        among: The n experts to choose from, in ascending order.
        probabilities: `[..., n]` float32, softmax of the router's logits over `among`.
        normalised: Whether every token's weights sum to 1, known before they are
            computed; otherwise the rest is computed, too.
        penalty: `[...]` nats a token, added to the loss where routers learn; None for
            none.
        carry: The arrays that the next adapted block gets, each `[..., p]` or a
            parameter.
    """

    weights: mx.array
    slots: mx.array | None
    among: tuple[int, ...]
    probabilities: mx.array
    normalised: bool
    penalty: mx.array | None = None
    carry: tuple[mx.array, ...] = ()

    def one_hot(self) -> mx.array:
        """Return 1 where a slot holds an expert, else 0, `[..., k, n]` float32."""
        if self.slots is None:
            return mx.eye(len(self.among))
        positions = mx.arange(len(self.among))
        return (self.slots[..., None] == positions).astype(mx.float32)

    def routing(self, experts: int) -> Routing:
        """The same decision for all E experts, arrays `[..., E]`."""
        weights = self.weights
        if self.slots is not None:
            weights = (weights[..., None] * self.one_hot()).sum(-2)
        chosen = (weights > 0).astype(mx.float32)
        weights, chosen, probabilities = (
            _spread(field, self.among, experts)
            for field in (weights, chosen, self.probabilities)
        )
        return Routing(weights, chosen, probabilities, self.penalty)


class Routing(NamedTuple):
    """The routing of every token, by every adapted block or by one of them.

    Attributes:
        weights: `[layers, batch, tokens, E]` float32 (one block: no first axis); 0 for
            experts not chosen. What a token's weights lack to 1 is the base's.
        chosen: Same shape, 1 for the experts a token uses.
        probabilities: Same shape; softmax over the experts the selection allows, 0
            for the others.
        penalty: `[layers, batch, tokens]` nats; None where no router has any.
    """

    weights: mx.array
    chosen: mx.array
    probabilities: mx.array
    penalty: mx.array | None = None

    def arrays(self) -> list[mx.array]:
        """The fields that are there, in their order."""
        return [field for field in self if field is not None]

    @classmethod
    def stacked(cls, blocks: list[Routing]) -> Routing:
        """All blocks' routing from that of each, at least one."""
        return cls._merged(blocks, mx.stack)

    @classmethod
    def joined(cls, parts: list[Routing]) -> Routing:
        """The routing of all rows from that of each part of them."""
        return cls._merged(parts, partial(mx.concatenate, axis=1))

    @classmethod
    def _merged(
        cls, routings: list[Routing], merge: Callable[[list[mx.array]], mx.array]
    ) -> Routing:
        fields = zip(*routings, strict=True)
        present = ([each for each in field if each is not None] for field in fields)
        return cls(*(merge(arrays) for arrays in present if arrays))


def linear_logits(weight: mx.array, x: mx.array, ask: Ask) -> mx.array:
    """R x of the experts that are asked for: `[..., n]` float32, without the tilt.

    Args:
        weight: R, `[E, dims]`.
        x: The input of the MLP, `[..., dims]`.
        ask: The experts to choose from.
    """
    rows = restricted(weight, ask, axis=0)
    return x.astype(mx.float32) @ rows.T


def restricted(values: mx.array, ask: Ask, axis: int = -1) -> mx.array:
    """Of values of all E experts, those of the n experts to choose from."""
    if len(ask.among) == values.shape[axis]:
        return values
    return mx.take(values, mx.array(ask.among), axis=axis)


def with_copy(rows: mx.array, expert: int) -> mx.array:
    """The rows `[E, ...]` of all experts, and after them that of one expert again."""
    return mx.concatenate([rows, rows[expert : expert + 1]])


def tilted(logits: mx.array, ask: Ask) -> mx.array:
    """Logits `[..., n]` with the tilt that is asked for."""
    return logits if ask.tilt is None else logits + restricted(ask.tilt, ask)


def largest(logits: mx.array, ask: Ask) -> Choice:
    """The k experts of the largest logits, with softmax among them.

        w = softmax(z_S) for k >= 2;  w = softmax(z) at its argmax for k = 1

    Args:
        logits: z, `[..., n]` float32, without the tilt.
        ask: The number of experts, the experts to choose from, and the tilt.
    """
    logits = tilted(logits, ask)
    probabilities = mx.softmax(logits, axis=-1)
    if ask.k == len(ask.among):
        return Choice(probabilities, None, ask.among, probabilities, normalised=True)
    slots = largest_slots(logits, ask.k)
    scores = probabilities if ask.k == 1 else logits
    weights = mx.take_along_axis(scores, slots, axis=-1)
    if ask.k > 1:
        weights = mx.softmax(weights, axis=-1)
    return Choice(weights, slots, ask.among, probabilities, normalised=ask.k > 1)


def largest_slots(scores: mx.array, k: int) -> mx.array:
    """The positions of the k largest of `[..., n]` scores: `[..., k]`, in no order."""
    fixed = mx.stop_gradient(scores)
    return mx.argpartition(-fixed, k - 1, axis=-1)[..., :k]


def tsallis_entropy(probabilities: mx.array, q: float = 1.1) -> mx.array:
    """The Tsallis entropy of each distribution, divided by the largest possible one.

        S_q(p) = (1 - sum_i (p_i + eps)^q) / (q - 1), divided by (1 - n^(1-q)) / (q - 1)

    q -> 1 gives Shannon's entropy divided by ln n. Source: Li et al., DynMoLE, arXiv
    2504.00661; eps = 1e-5 as in the authors' code.

    Args:
        probabilities: `[..., n]`; for n = 1 there is nothing to be uncertain of.
        q: The entropic index, above 0 and not 1.

    Returns:
        `[...]` float32, from about 0 (one expert is certain) to about 1 (uniform).
    """
    n = probabilities.shape[-1]
    if n == 1:
        return mx.zeros(probabilities.shape[:-1])
    total = (1 - ((probabilities + 1e-5) ** q).sum(-1)) / (q - 1)
    return total / ((1 - n ** (1 - q)) / (q - 1))


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
