"""LoRA experts around frozen linears: their outputs fan out and are mixed back.

Base weights are shared by all experts, so the base product of each linear of the MLP
is computed once, whatever the number of experts:

    in-projections:  h[e] = W x + scale * B_e A_e x                 a leading slot axis
    activation:      the model's own code, broadcasting over that axis
    out-projection:  y = W (sum_e w_e h_e) + scale * sum_e w_e B_e A_e h_e

This is exact. Where the weights of a token sum to s != 1, the base's own MLP takes
1 - s (the rest rule): one more slot holds W x without a low-rank product. A slot is
one of the k experts a token uses. With k = E, slot e is expert e; with k < E every
slot runs one hidden vector, and the low-rank products of the experts it does not hold
are masked, so that unused experts never cost a pass of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.lora import DerivedCache, LoRA, Mode, add_product, dimensions
from comigs_mlx.model.routing import Choice


@dataclass(eq=False)
class BlockRouting:
    """Carries a block's choice from its MLP to that MLP's linears, during one call.

    Attributes:
        choose: Maps the MLP's input to the choice; None where no expert speaks.
        derived: The cache that remembers the joined A of the readers.
        readers: The linears that read the MLP's input.
        choice: The choice for the call under way; None outside a call, and where no
            expert speaks.
        low: Maps the child name of each reader to the MLP's input in its low-rank
            space, `[tokens, n * r]`.
    """

    choose: Callable[[mx.array], Choice | None]
    derived: DerivedCache
    readers: list[FanOut] = field(default_factory=list)
    choice: Choice | None = None
    low: dict[str, mx.array] = field(default_factory=dict)

    def begin(self, x: mx.array) -> None:
        """Let the block's linears run the experts that are chosen for `x` `[...,
        in]`.
        """
        self.choice = self.choose(x)
        if self.choice is not None:
            self.low = low_ranks(self.readers, x, self.choice, self.derived)

    def end(self) -> None:
        """Let the block's linears compute the base's product alone again."""
        self.choice, self.low = None, {}


class MixtureMLP:
    """The class that is mixed in before an MLP's own (`attach.mix_in_class`)."""

    _routing: BlockRouting

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Compute the block's MLP of `x` with the experts that its router chooses."""
        routing = self._routing
        try:
            routing.begin(x)
            y: mx.array = super().__call__(x, *args, **kwargs)  # type: ignore[misc]
        finally:  # also after an error: a stale choice would change the next call
            routing.end()
        return y


class ExpertLinear(nn.Module):
    """A frozen linear with the LoRA pairs of all experts, generalists first."""

    def __init__(
        self,
        linear: nn.Module,
        name: str,
        routing: BlockRouting,
        mode: Mode,
        groups: dict[str, int],
        rank: int,
        scale: float,
        key: mx.array,
    ):
        super().__init__()
        self.linear = linear
        keys = mx.random.split(key, len(groups))
        self._order = [role for role, count in groups.items() if count]
        for (role, count), role_key in zip(groups.items(), keys, strict=True):
            if count:
                self[role] = LoRA(dimensions(linear), rank, role_key, count)
        self._name, self._routing, self._scale = name, routing, scale
        self._derived = DerivedCache(mode)

    def stacks(self, which: str) -> list[mx.array]:
        """Return `lora_a` or `lora_b` as they are stored, one array a role: `[n,
        ...]`.
        """
        return [self[role][which] for role in self._order]

    def low_rank(self, among: tuple[int, ...]) -> mx.array:
        """Return A of the experts `among`, side by side: `[in, n * r]`."""
        stacks = self.stacks("lora_a")
        return self._derived(
            ("a", among), stacks, lambda: _beside(_pick(stacks, among))
        )

    def apart(self, among: tuple[int, ...]) -> mx.array:
        """Return A of the experts `among`: `[n, in, r]`."""
        stacks = self.stacks("lora_a")
        return self._derived(("apart", among), stacks, lambda: _pick(stacks, among))

    def high_rank(self, among: tuple[int, ...]) -> mx.array:
        """Return scale times B of the experts `among`: `[n, r, out]`."""
        stacks = self.stacks("lora_b")
        return self._derived(
            ("b", among), stacks, lambda: self._scale * _pick(stacks, among)
        )


def low_ranks(
    linears: list[FanOut], x: mx.array, choice: Choice, derived: DerivedCache
) -> dict[str, mx.array]:
    """Map `x` to the low-rank space of every linear that reads it, by one product.

    Args:
        linears: The linears of one MLP that read its input.
        x: The input that they read, `[..., in]`.
        choice: The choice, which has the experts to choose from.
        derived: The cache that remembers the joined A.

    Returns:
        The vectors `[tokens, n * r]` by child name.
    """
    among = choice.among
    sources = [stack for linear in linears for stack in linear.stacks("lora_a")]

    def joined() -> mx.array:
        return mx.concatenate([linear.low_rank(among) for linear in linears], axis=-1)

    low = x.reshape(-1, x.shape[-1]) @ derived(among, sources, joined)
    parts = low.split(len(linears), axis=-1)
    return {linear._name: part for linear, part in zip(linears, parts, strict=True)}


class FanOut(ExpertLinear):
    """A linear that reads the MLP's input: `[..., in]` -> `[k, ..., out]`.

    With a rest there is one slot more, the last, which holds the base's product alone.
    """

    def __call__(self, x: mx.array) -> mx.array:
        """Compute the base's product once, and one low-rank product a slot."""
        base = self.linear(x)
        if (choice := self._routing.choice) is None:
            return base
        y = self._slots(base, choice)
        if not choice.normalised:
            y = mx.concatenate([y, base.reshape(1, *y.shape[1:])])
        return y.reshape(-1, *base.shape)

    def _slots(self, base: mx.array, choice: Choice) -> mx.array:
        """What each slot's expert makes of the input: `[k, tokens, out]`."""
        b = self.high_rank(choice.among)  # [n, r, out]
        n, rank, out = b.shape
        low = self._routing.low[self._name].reshape(-1, n, rank)  # [tokens, n, r]
        flat = base.reshape(1, -1, out)
        if choice.slots is None:
            y = add_product(flat, low.transpose(1, 0, 2), b)
        elif low.shape[0] == 1:
            slots = choice.slots.reshape(-1)
            low = low.squeeze(0)[slots][:, None]  # [k, 1, r]
            y = flat + mx.gather_mm(low, b, rhs_indices=slots).astype(flat.dtype)
        else:
            hot = choice.one_hot().reshape(-1, choice.slots.shape[-1], n)
            low = hot.transpose(1, 0, 2)[..., None] * low  # [k, tokens, n, r]
            low = low.reshape(*low.shape[:2], n * rank)
            y = add_product(flat, low, b.reshape(n * rank, out))
        return y


class MixBack(ExpertLinear):
    """The MLP's last linear: `[k, ..., in]` -> `[..., out]`, weighted by the router."""

    def __call__(self, h: mx.array) -> mx.array:
        """Compute the base's product of the weighted sum, and one low-rank product."""
        if (choice := self._routing.choice) is None:
            return self.linear(h)
        slots, *shape, dims = h.shape
        h, k = h.reshape(slots, -1, dims), choice.weights.shape[-1]
        every = weights = choice.weights.reshape(-1, k)  # [tokens, k]
        if not choice.normalised:
            rest = 1 - weights.sum(-1, keepdims=True)
            every = mx.concatenate([weights, rest], axis=-1)
        y = self.linear(_mixed(h, every.astype(h.dtype)))
        if not choice.normalised:
            h = h[:k]
        b = self.high_rank(choice.among)
        if choice.slots is not None and h.shape[1] == 1:
            y = y + self._gathered(h, weights, choice, b).astype(y.dtype)
        else:
            low = self._low(h, weights, choice)  # [tokens, n * r]
            y = add_product(y, low, b.reshape(-1, b.shape[-1]))
        return y.reshape(*shape, -1)

    def _low(self, h: mx.array, weights: mx.array, choice: Choice) -> mx.array:
        """Map h to the low-rank space of every expert, weighted, `[tokens, n * r]`."""
        if choice.slots is None:
            low = (h @ self.apart(choice.among)).transpose(1, 0, 2)  # [tokens, n, r]
            low = low * weights[..., None]
        else:
            k, n, a = h.shape[0], len(choice.among), self.low_rank(choice.among)
            low = (h @ a).reshape(k, -1, n, a.shape[-1] // n).transpose(1, 0, 2, 3)
            mask = choice.one_hot().reshape(-1, k, n) * weights[..., None]
            low = (low * mask[..., None]).sum(1)  # [tokens, n, r]
        return low.reshape(low.shape[0], -1)

    def _gathered(
        self, h: mx.array, weights: mx.array, choice: Choice, b: mx.array
    ) -> mx.array:
        """Compute the low-rank part of one token from the experts it uses: `[1,
        out]`.
        """
        assert choice.slots is not None
        slots, a = choice.slots.reshape(-1), self.apart(choice.among)
        low = mx.gather_mm(h.astype(a.dtype), a, rhs_indices=slots)  # [k, 1, r]
        low = low * weights.reshape(-1, 1, 1)
        return mx.gather_mm(low, b, rhs_indices=slots).sum(0)


def _mixed(h: mx.array, weights: mx.array) -> mx.array:
    """The weighted sum of the slots: `[k, tokens, in]` -> `[tokens, in]`."""
    if h.shape[0] == 1:  # the weight is 1
        return h.squeeze(0)
    if h.shape[1] == 1:
        return weights @ h.squeeze(1)
    y: Any = _weighted_sum(h, weights)
    return y


@mx.custom_function
def _weighted_sum(h: mx.array, weights: mx.array) -> mx.array:
    """Sum `[k, tokens, in]` by `[tokens, k]` to `[tokens, in]`, in one pass over
    `h`.
    """
    slots = [slot.squeeze(0) for slot in h.split(h.shape[0])]
    parts = weights.split(len(slots), axis=-1)
    weighted = [w * slot for w, slot in zip(parts, slots, strict=True)]
    return functools.reduce(mx.add, weighted)


@_weighted_sum.vjp
def _weighted_sum_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    h, weights = primals
    return weights.T[..., None] * cotangent, (h * cotangent).sum(-1).T


def _pick(stacks: list[mx.array], among: tuple[int, ...]) -> mx.array:
    """Select the experts `among` from the stacks `[n, ...]`, one after the other."""
    joined = mx.concatenate(stacks) if len(stacks) > 1 else stacks[0]
    return joined[mx.array(among)] if len(among) < joined.shape[0] else joined


def _beside(a: mx.array) -> mx.array:
    """Put experts side by side: `[n, in, r]` -> `[in, n * r]`."""
    n, dims, rank = a.shape
    return a.transpose(1, 0, 2).reshape(dims, n * rank)
