"""Low-rank pairs on frozen linears, and what all of a model's pairs share."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn


@dataclass
class Mode:
    """The settings that hold for all of a model's experts at once.

    Attributes:
        attention: Whether the attention LoRAs are on.
        frozen: Whether no value changes, so that results made of values alone may be
            kept from call to call.
    """

    attention: bool = True
    frozen: bool = False


def dimensions(linear: nn.Module) -> tuple[int, int]:
    """Return input and output size of a plain or quantised linear."""
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


class DerivedCache:
    """Remembers results that were made of some arrays, while the mode is frozen.

    A result is made anew when one of its arrays is no longer the same object:
    parameters are replaced, never written into.
    """

    def __init__(self, mode: Mode):
        self._mode = mode
        self._values: dict[Any, tuple[list[mx.array], mx.array]] = {}

    def __call__(
        self, key: Any, sources: list[mx.array], make: Callable[[], mx.array]
    ) -> mx.array:
        """Return what `make` makes of `sources`, or what it made of them before."""
        if not self._mode.frozen:
            self._values.clear()
            return make()
        before, value = self._values.get(key, ([], None))
        unchanged = len(before) == len(sources) and all(
            map(operator.is_, before, sources)
        )
        if value is None or not unchanged:
            value = make()
            self._values[key] = (sources, value)
        return value


class SharedLoRA(nn.Module):
    """An attention linear with one LoRA pair, which belongs to the first generalist."""

    def __init__(
        self, linear: nn.Module, mode: Mode, rank: int, scale: float, key: mx.array
    ):
        super().__init__()
        self.linear = linear
        self.generalist = LoRA(dimensions(linear), rank, key)
        self._scale, self._mode, self._derived = scale, mode, DerivedCache(mode)

    def __call__(self, x: mx.array) -> mx.array:
        """Compute W x + scale * B A x, or W x while attention LoRAs are off."""
        y = self.linear(x)
        if not self._mode.attention:
            return y
        return add_product(y, x @ self.generalist.lora_a, self.scaled_b())

    def scaled_b(self) -> mx.array:
        """Return scale times B, `[r, out]`."""
        b = self.generalist.lora_b
        return self._derived("b", [b], lambda: self._scale * b)


def add_product(base: mx.array, low: mx.array, b: mx.array) -> mx.array:
    """Compute base + low @ b, in base's type.

    The product is float32 where the pairs are; a half-precision base is never cast up.
    """
    if base.dtype == b.dtype:
        return mx.addmm(base, low, b)
    return base + (low @ b).astype(base.dtype)
