"""The median of every single number.

    theta[j] <- median_i theta_i[j]

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, definition 1. Fewer than half of the participants, whatever they send, cannot
move a number beyond what the others sent. Memory: one tensor of all participants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    stacked,
)
from comigs_mlx.federation.formats.tensor_source import Array, Source

SUMMARY = "median of every number: withstands a hostile minority, from three on"
HANDLES_RANKS = False
ROBUST = True
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The coordinate-wise median."""
    del state
    return Update({}, _medians(contributions, current))


def _medians(
    contributions: Sequence[Source], current: Source
) -> Iterator[tuple[str, Array]]:
    middle = len(contributions) // 2
    odd = len(contributions) % 2
    for name in current.names():
        values = stacked(contributions, name)
        values.partition(middle if odd else [middle - 1, middle], axis=0)
        pair = values[middle - 1 + odd : middle + 1]
        yield name, pair.mean(axis=0, dtype=np.float64).astype(np.float32)
