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

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.routing import Choice


@dataclass
class Wire:
    """Carries a block's choice from its MLP to that MLP's linears, during one call.

    `choice` is None outside a call, and in a call that uses no expert.
    """

    choice: Choice | None = None


@dataclass
class Switch:
    """Turns every attention LoRA of a model on or off together."""

    on: bool = True


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
        wire: Wire,
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
        self._scale = scale
        self._wire = wire

    def pairs(self, among: tuple[int, ...]) -> tuple[mx.array, mx.array]:
        """The pairs of the experts `among`, the scale in B.

        Returns:
            A as `[n, in, r]` and scale * B as `[n, r, out]`.
        """
        a = mx.concatenate([self[role].lora_a for role in self._order])
        b = mx.concatenate([self[role].lora_b for role in self._order])
        if len(among) < a.shape[0]:
            a, b = a[mx.array(among)], b[mx.array(among)]
        return a, self._scale * b


class FanOut(ExpertLinear):
    """A linear that reads the MLP's input: `[..., in]` -> `[k, ..., out]`."""

    def __call__(self, x: mx.array) -> mx.array:
        """Base product once, one low-rank product a slot."""
        base = self.linear(x)
        if (choice := self._wire.choice) is None:
            return base
        a, b = self.pairs(choice.among)
        n, dims, rank = a.shape
        low = x @ a.transpose(1, 0, 2).reshape(dims, n * rank)  # [..., n * r]
        if (hot := choice.one_hot()) is None:
            low = mx.moveaxis(low.reshape(*x.shape[:-1], n, rank), -2, 0)
        else:
            low = low.reshape(*x.shape[:-1], 1, n, rank) * hot[..., None]
            low = mx.moveaxis(low.reshape(*hot.shape[:-1], n * rank), -2, 0)
            b = b.reshape(1, n * rank, -1)
        return _add_product(base, low, b)


class MixBack(ExpertLinear):
    """The MLP's last linear: `[k, ..., in]` -> `[..., out]`, weighted by the router."""

    def __call__(self, h: mx.array) -> mx.array:
        """Base product of the weighted sum, one low-rank product for all experts."""
        if (choice := self._wire.choice) is None:
            return self.linear(h)
        a, b = self.pairs(choice.among)
        n, dims, rank = a.shape
        weights = mx.moveaxis(choice.weights, -1, 0)[..., None]  # [k, ..., 1]
        y = self.linear((weights.astype(h.dtype) * h).sum(0))
        if "bias" in self.linear and not choice.normalised:
            missing = choice.weights.sum(-1, keepdims=True) - 1
            y = y + (missing * self.linear.bias).astype(y.dtype)
        if (hot := choice.one_hot()) is None:
            low = _product(h, a) * weights  # [n, ..., r]
            low = mx.moveaxis(low, 0, -2)
        else:
            low = h @ a.transpose(1, 0, 2).reshape(dims, n * rank)
            low = low.reshape(*h.shape[:-1], n, rank) * weights[..., None]
            low = (low * mx.moveaxis(hot, -2, 0)[..., None]).sum(0)
        low = low.reshape(*h.shape[1:-1], n * rank)
        return _add_product(y, low[None], b.reshape(1, n * rank, -1))[0]


class SharedLoRA(nn.Module):
    """An attention linear with one LoRA pair, which belongs to the first generalist."""

    def __init__(
        self, linear: nn.Module, switch: Switch, rank: int, scale: float, key: mx.array
    ):
        super().__init__()
        self.linear = linear
        self.generalist = LoRA(dimensions(linear), rank, key)
        self._scale = scale
        self._switch = switch

    def __call__(self, x: mx.array) -> mx.array:
        """W x + scale * B A x, or W x while the switch is off."""
        y = self.linear(x)
        if not self._switch.on:
            return y
        b = self._scale * self.generalist.lora_b
        return _add_product(y, (x @ self.generalist.lora_a)[None], b[None])[0]


def _product(x: mx.array, w: mx.array) -> mx.array:
    """`[n, ..., in]` @ `[n, in, out]` -> `[n, ..., out]`."""
    n, dims, out = w.shape
    return (x.reshape(n, -1, dims) @ w).reshape(*x.shape[:-1], out)


def _add_product(base: mx.array, low: mx.array, b: mx.array) -> mx.array:
    """`[..., out]` + `[n, ..., r]` @ `[n, r, out]` -> `[n, ..., out]`, in base's type.

    The product is float32 where the pairs are; a half-precision base is never cast up.
    """
    out = base.shape[-1]
    low, flat = low.reshape(low.shape[0], -1, low.shape[-1]), base.reshape(1, -1, out)
    if base.dtype == b.dtype:
        y = mx.addmm(flat, low, b)
    else:
        y = flat + (low @ b).astype(base.dtype)
    return y.reshape(low.shape[0], *base.shape)
