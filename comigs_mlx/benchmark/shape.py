"""The sizes of a benchmark, as plain values. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BenchShape:
    """The sizes that decide how much there is to compute.

    Attributes:
        model: The id, path or name of the base model.
        batch_size: The number of sequences in a batch.
        seq_len: The number of tokens in a sequence.
        rank: The rank of every LoRA pair, ours and mlx-lm's.
        experts: The numbers of experts whose training step is measured.
        naive: The numbers of experts that the naive mixture is measured with.
        rounds: The counted runs of each variant.
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
        """Return plain JSON values."""
        fields = dataclasses.asdict(self)
        return fields | {name: list(fields[name]) for name in ("experts", "naive")}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> BenchShape:
        """Build a shape from what `to_dict` returned."""
        counts = {name: tuple(values[name]) for name in ("experts", "naive")}
        return BenchShape(**{**values, **counts})
