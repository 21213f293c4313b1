"""The sizes of a benchmark, as plain values. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BenchShape:
    """What decides how much there is to compute.

    Attributes:
        model: Id, path or name of the base model.
        batch_size: How many sequences a batch has.
        seq_len: How many tokens a sequence has.
        rank: Of every LoRA pair, ours and mlx-lm's.
        experts: Numbers of experts whose training step is measured.
        naive: Numbers of experts that the naive mixture is measured with.
        rounds: Counted runs of each variant.
    """

    model: str
    batch_size: int
    seq_len: int
    rank: int
    experts: tuple[int, ...]
    naive: tuple[int, ...]
    rounds: int

    @property
    def main_experts(self) -> int:
        """The number of experts that the headline is about: 2, or else the first."""
        return 2 if 2 in self.experts else self.experts[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = dataclasses.asdict(self)
        return fields | {name: list(fields[name]) for name in ("experts", "naive")}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> BenchShape:
        """The inverse of `to_dict`."""
        counts = {name: tuple(values[name]) for name in ("experts", "naive")}
        return BenchShape(**{**values, **counts})
