"""The mean of the contributions that lie closest to the others.

    score(i) = sum of ||u_i - u_j||^2 over the N - f - 2 updates u_j closest to u_i
    theta <- mean of the N - f contributions with the lowest scores

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent", NeurIPS 2017 (Multi-Krum). f is how many hostile participants it
should withstand, f = ceil(fraction * N); the paper needs N >= 2 f + 3, so f is lowered
where there are fewer. Of four, one is left out all the same: without the paper's
guarantee, but a lone outlier does not count. Up to three are averaged. Memory: one
tensor of all participants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    stacked,
    weighted_mean,
)
from comigs_mlx.federation.formats.tensor_source import Source, Wide, wide

SUMMARY = "mean of those closest to the others: withstands a few hostile, from four on"
HANDLES_RANKS = False
ROBUST = True
OPTIONS = {
    "fraction": Option(
        0.2, 0, 0.5, "share of hostile participants expected", also="share"
    )
}


def update(
    contributions: Sequence[Source], current: Source, state: State, fraction: float
) -> Update:
    """Multi-Krum."""
    del state
    count = len(contributions)
    most = 1 if count == 4 else max((count - 3) // 2, 0)
    hostile = min(math.ceil(fraction * count), most)
    chosen = _chosen(contributions, current, hostile)
    weights = {
        source.name: 1 / len(chosen) if index in chosen else 0.0
        for index, source in enumerate(contributions)
    }
    return Update(weights, weighted_mean(contributions, weights, current))


def _chosen(contributions: Sequence[Source], current: Source, hostile: int) -> set[int]:
    """Indices of the contributions to average."""
    count = len(contributions)
    if hostile == 0:
        return set(range(count))
    distances = _distances(contributions, current)
    np.fill_diagonal(distances, -np.inf)  # sorts itself first, and is cut off
    neighbours = np.sort(distances, axis=1)[:, 1 : count - hostile - 1]
    scores = neighbours.sum(axis=1)
    return set(np.argsort(scores, kind="stable")[: count - hostile].tolist())


def _distances(contributions: Sequence[Source], current: Source) -> Wide:
    """Squared distances between updates, all tensors together, [N, N]."""
    gram = np.zeros((len(contributions),) * 2)
    for name in current.names():
        updates = stacked(contributions, name) - wide(current, name)
        flat = updates.reshape(len(updates), -1)
        gram += flat @ flat.T
    squares = np.diag(gram)
    return np.maximum(squares[:, None] + squares - 2 * gram, 0.0)
