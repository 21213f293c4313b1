"""The mean of every single number without its largest and smallest values.

    theta[j] <- mean of theta_i[j] without the k largest and the k smallest,
    k = ceil(fraction * N), as long as one value is left

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, definition 2. Withstands k hostile participants. Memory: one tensor of all
participants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    stacked,
)
from comigs_mlx.federation.formats.tensor_source import Array, Source

SUMMARY = (
    "mean of every number but its extremes: withstands a few hostile, from three on"
)
HANDLES_RANKS = False
ROBUST = True
OPTIONS = {
    "fraction": Option(0.2, 0, 0.5, "share of the values cut at each end", also="share")
}


def update(
    contributions: Sequence[Source], current: Source, state: State, fraction: float
) -> Update:
    """The coordinate-wise trimmed mean."""
    del state
    count = len(contributions)
    cut = min(math.ceil(fraction * count), (count - 1) // 2)
    return Update({}, _means(contributions, current, cut))


def _means(
    contributions: Sequence[Source], current: Source, cut: int
) -> Iterator[tuple[str, Array]]:
    for name in current.names():
        values = stacked(contributions, name)
        values.sort(axis=0)
        kept = values[cut : len(values) - cut]
        yield name, kept.mean(axis=0, dtype=np.float64).astype(np.float32)
