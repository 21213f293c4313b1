"""LoRA experts around frozen linears: fan out, mix back.

Base weights are shared by all experts, so the base product of each linear of the MLP
is computed once, whatever the number of experts:

    in-projections:  h[e] = W x + scale * B_e A_e x                 a leading slot axis
    activation:      the model's own code, broadcasting over that axis
    out-projection:  y = W (sum_e w_e h_e) + scale * sum_e w_e B_e A_e h_e

This is exact; where the weights sum to s != 1, the out-projection's bias counts s
times. A slot is one of the k experts a token uses. With k = E, slot e is expert e;
with k < E every slot runs one hidden vector, and the low-rank products of the experts
it does not hold are masked, so that unused experts never cost a pass of their own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.routing import Choice


@dataclass
class Mode:
    """What holds for all of a model's experts at once.

    Attributes:
        attention: Whether the attention LoRAs are on.
        frozen: Whether values stay as they are, so that what is made of them alone
            may be kept from call to call.
    """

    attention: bool = True
    frozen: bool = False


@dataclass
class Wire:
    """Carries a block's choice from its MLP to that MLP's linears, during one call.

    Attributes:
        choice: None outside a call, and in a call that uses no expert.
        low: Child name of each linear that reads the MLP's input -> that input in its
            low-rank space, `[tokens, n * r]`.
    """

    choice: Choice | None = None
    low: dict[str, mx.array] = field(default_factory=dict)


def dimensions(linear: nn.Module) -> tuple[int, int]:
    """Input and output size of a plain or quantised linear."""
    out, width = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        width = width * 32 // linear.bits
    return width, out


class LoRA(nn.Module):
    """Low-rank pairs of n experts: `lora_a` `[n, in, r]`, `lora_b` `[n, r, out]`.

    A is kaiming-uniform with a = sqrt(5), so uniform within 1 / sqrt(in); B is 0.
    Without `experts` there is one pair and no leading axis.
    """

    def __init__(
        self,
        dims: tuple[int, int],
        rank: int,
        key: mx.array,
        experts: int | None = None,
    ):
        super().__init__()
        lead = () if experts is None else (experts,)
        bound = 1 / math.sqrt(dims[0])
        self.lora_a = mx.random.uniform(-bound, bound, (*lead, dims[0], rank), key=key)
        self.lora_b = mx.zeros((*lead, rank, dims[1]))


class ExpertLinear(nn.Module):
    """A frozen linear with the LoRA pairs of all experts, generalists first."""

    def __init__(
        self,
        linear: nn.Module,
        name: str,
        wire: Wire,
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
        self._name, self._wire, self._mode, self._scale = name, wire, mode, scale
        self._kept = Kept(mode)

    def low_rank(self, among: tuple[int, ...]) -> mx.array:
        """A of the experts `among`, side by side: `[in, n * r]`."""
        return self._kept("a", among, lambda: _side_by_side(self._stack("a", among)))

    def high_rank(self, among: tuple[int, ...]) -> mx.array:
        """Scale times B of the experts `among`: `[n, r, out]`."""
        return self._kept("b", among, lambda: self._scale * self._stack("b", among))

    def _stack(self, which: str, among: tuple[int, ...]) -> mx.array:
        """A or B of the experts `among`, `[n, ...]`."""
        stacks = [self[role][f"lora_{which}"] for role in self._order]
        joined = mx.concatenate(stacks) if len(stacks) > 1 else stacks[0]
        return joined[mx.array(among)] if len(among) < joined.shape[0] else joined


class Kept:
    """Remembers, while the mode is frozen, what was made for a key."""

    def __init__(self, mode: Mode):
        self._mode = mode
        self._values: dict[Any, mx.array] = {}

    def __call__(
        self, what: str, among: tuple[int, ...], make: Callable[[], mx.array]
    ) -> mx.array:
        """The value made before, or a new one."""
        if not self._mode.frozen:
            self._values.clear()
            return make()
        if (what, among) not in self._values:
            self._values[what, among] = make()
        return self._values[what, among]


def low_ranks(
    linears: list[FanOut], x: mx.array, choice: Choice, kept: Kept
) -> dict[str, mx.array]:
    """`x` in the low-rank space of every linear that reads it, by one product.

    Args:
        linears: The linears of one MLP that read its input.
        x: `[..., in]`, that input.
        choice: For the experts to choose from.
        kept: Remembers the joined A.

    Returns:
        Child name -> `[tokens, n * r]`.
    """
    among = choice.among

    def joined() -> mx.array:
        return mx.concatenate([linear.low_rank(among) for linear in linears], axis=-1)

    low = x.reshape(-1, x.shape[-1]) @ kept("joined", among, joined)
    parts = low.split(len(linears), axis=-1)
    return {linear._name: part for linear, part in zip(linears, parts, strict=True)}


class FanOut(ExpertLinear):
    """A linear that reads the MLP's input: `[..., in]` -> `[k, ..., out]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """Base product once, one low-rank product a slot."""
        base = self.linear(x)
        if (choice := self._wire.choice) is None:
            return base
        b = self.high_rank(choice.among)  # [n, r, out]
        n, rank, out = b.shape
        low = self._wire.low[self._name].reshape(-1, n, rank)  # [tokens, n, r]
        if (hot := choice.one_hot()) is None:
            low = low.transpose(1, 0, 2)  # [n, tokens, r]
        else:
            hot = hot.reshape(-1, *hot.shape[-2:]).transpose(1, 0, 2)  # [k, tokens, n]
            low = (hot[..., None] * low).reshape(*hot.shape[:2], n * rank)
            b = b.reshape(n * rank, out)
        y = _add_product(base.reshape(1, -1, out), low, b)
        return y.reshape(-1, *base.shape)


class MixBack(ExpertLinear):
    """The MLP's last linear: `[k, ..., in]` -> `[..., out]`, weighted by the router."""

    def __call__(self, h: mx.array) -> mx.array:
        """Base product of the weighted sum, one low-rank product for all experts."""
        if (choice := self._wire.choice) is None:
            return self.linear(h)
        b = self.high_rank(choice.among)
        n, rank, out = b.shape
        k, *shape, dims = h.shape
        h = h.reshape(k, -1, dims)
        weights = choice.weights.reshape(-1, k)  # [tokens, k]
        y = self.linear(_weighted_sum(h, weights.astype(h.dtype)))
        if "bias" in self.linear and not choice.normalised:
            missing = weights.sum(-1, keepdims=True) - 1
            y = y + (missing * self.linear.bias).astype(y.dtype)
        low = self._low(h, weights, choice)  # [tokens, n * r]
        return _add_product(y, low, b.reshape(n * rank, out)).reshape(*shape, out)

    def _low(self, h: mx.array, weights: mx.array, choice: Choice) -> mx.array:
        """h in the low-rank space of every expert, weighted, `[tokens, n * r]`."""
        k, n, a = h.shape[0], len(choice.among), self.low_rank(choice.among)
        if (hot := choice.one_hot()) is None:
            each = a.reshape(a.shape[0], n, -1).transpose(1, 0, 2)  # [n, in, r]
            low = (h @ each).transpose(1, 0, 2) * weights[..., None]
        else:
            low = (h @ a).reshape(k, -1, n, a.shape[-1] // n).transpose(1, 0, 2, 3)
            mask = hot.reshape(-1, k, n) * weights[..., None]
            low = (low * mask[..., None]).sum(1)  # [tokens, n, r]
        return low.reshape(low.shape[0], -1)


class SharedLoRA(nn.Module):
    """An attention linear with one LoRA pair, which belongs to the first generalist."""

    def __init__(
        self, linear: nn.Module, mode: Mode, rank: int, scale: float, key: mx.array
    ):
        super().__init__()
        self.linear = linear
        self.generalist = LoRA(dimensions(linear), rank, key)
        self._scale, self._mode, self._kept = scale, mode, Kept(mode)

    def __call__(self, x: mx.array) -> mx.array:
        """W x + scale * B A x, or W x while attention LoRAs are off."""
        y = self.linear(x)
        if not self._mode.attention:
            return y
        b = self._kept("b", (0,), lambda: self._scale * self.generalist.lora_b)
        return _add_product(y, x @ self.generalist.lora_a, b)


@mx.custom_function
def _weighted_sum(h: mx.array, weights: mx.array) -> mx.array:
    """`[k, tokens, in]`, `[tokens, k]` -> `[tokens, in]`, in one pass over `h`."""
    if h.shape[1] == 1:
        return weights @ h.squeeze(1)
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


def _side_by_side(a: mx.array) -> mx.array:
    """`[n, in, r]` -> `[in, n * r]`."""
    n, dims, rank = a.shape
    return a.transpose(1, 0, 2).reshape(dims, n * rank)


def _add_product(base: mx.array, low: mx.array, b: mx.array) -> mx.array:
    """base + low @ b, in base's type.

    The product is float32 where the pairs are; a half-precision base is never cast up.
    """
    if base.dtype == b.dtype:
        return mx.addmm(base, low, b)
    return base + (low @ b).astype(base.dtype)
