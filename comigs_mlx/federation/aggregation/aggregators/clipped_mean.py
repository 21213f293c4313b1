"""The mean of updates none of which is longer than the median one.

    u_i = theta_i - theta,   tau = factor * median_i ||u_i||
    theta <- theta + 1/N sum_i u_i min(1, tau / ||u_i||)

Norm clipping as in Sun et al., "Can You Really Backdoor Federated Learning?", 2019,
with the threshold taken from the round itself. One hostile participant
moves the result by tau / N at most. Reads every tensor twice. Memory: one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    uniform,
    update_norms,
    weighted_mean,
)
from comigs_mlx.federation.formats.tensor_source import Source

SUMMARY = "mean of the updates, none longer than the median one"
HANDLES_RANKS = False
ROBUST = True
OPTIONS = {"factor": Option(1.0, 0.01, 1e6, "longest update, in medians of their norm")}


def update(
    contributions: Sequence[Source], current: Source, state: State, factor: float
) -> Update:
    """The mean of clipped updates; `weights` are the shares before clipping."""
    del state
    norms = update_norms(contributions, current)
    limit = factor * float(np.median(norms))
    kept = {
        source.name: (limit / norm if norm > limit else 1.0) / len(contributions)
        for source, norm in zip(contributions, norms.tolist(), strict=True)
    }
    tensors = weighted_mean(contributions, kept, current)
    return Update(uniform(contributions), tensors)
