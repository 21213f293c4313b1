"""The sources that aggregators read generalists from, one float32 tensor at a time.

A tensor has its name in the adapter file, `<linear path>.lora_a` [in, rank] or
`<linear path>.lora_b` [rank, out] (the product of the paper's B and A is lora_a @
lora_b, transposed). `expert_shape` gives the names of tensors of more generalists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from comigs_mlx.expert_shape import ADAPTER as ADAPTER
from comigs_mlx.expert_shape import by_file as by_file
from comigs_mlx.expert_shape import file_of as file_of

Array = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
PAIR = ("lora_a", "lora_b")


class Source(Protocol):
    """The generalists of one participant."""

    @property
    def name(self) -> str:
        """The participant."""

    @property
    def tokens(self) -> int:
        """The number of training tokens behind it, as the participant states; else
        0.
        """

    def names(self) -> Sequence[str]:
        """List its tensors, sorted."""

    def read(self, tensor: str) -> Array:
        """Read the values of one tensor, which must not be written to."""


class Arrays:
    """Generalists in memory."""

    def __init__(
        self, name: str, tensors: Mapping[str, npt.NDArray[Any]], tokens: int = 0
    ):
        self.name, self.tensors, self.tokens = name, tensors, tokens

    def names(self) -> Sequence[str]:
        """List its tensors, sorted."""
        return sorted(self.tensors)

    def read(self, tensor: str) -> Array:
        """Return the values of one tensor."""
        return np.asarray(self.tensors[tensor], np.float32)


class Scaled:
    """A source whose update is clipped: current + factor * (value - current).

    With `products` it is the update of the product lora_a @ lora_b that is clipped,
    which takes a pair of a larger rank: [factor A, (1 - factor) A0] over [B, B0].
    """

    def __init__(
        self, source: Source, current: Source, factor: float, products: bool = False
    ):
        self.source, self.current = source, current
        self.factor, self.products = factor, products
        self.name, self.tokens = source.name, source.tokens

    def names(self) -> Sequence[str]:
        """List its tensors, sorted."""
        return self.source.names()

    def read(self, tensor: str) -> Array:
        """Compute the values of one tensor."""
        now = wide(self.current, tensor)
        values = wide(self.source, tensor)
        if not self.products:
            return (now + self.factor * (values - now)).astype(np.float32)
        if tensor.endswith(".lora_b"):
            return np.vstack([values, now]).astype(np.float32)
        parts = [self.factor * values, (1 - self.factor) * now]
        return np.hstack(parts).astype(np.float32)


def wide(source: Source, tensor: str) -> Wide:
    """Read the values of one tensor in float64."""
    return source.read(tensor).astype(np.float64)


def linears(names: Iterable[str]) -> list[str]:
    """List the linears that these tensors belong to, sorted."""
    return sorted({name.rsplit(".", 1)[0] for name in names})


def shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a source."""
    return {name: source.read(name).shape for name in source.names()}


def digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of names and float32 values, whatever the files that hold
    them.
    """
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name], "<f4")
        sha256.update(name.encode() + values.tobytes())
    return sha256.hexdigest()
