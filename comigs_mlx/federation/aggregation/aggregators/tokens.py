"""The average of the factors, weighted by how much text each was trained on.

    theta <- sum_i n_i theta_i / sum_i n_i,   n_i = training tokens of participant i

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, algorithm 1 (FedAvg), with tokens for its examples. The counts are
what participants say of themselves: use it among people who trust each other. Who says
nothing has no share; where nobody does, all have the same. Memory: one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    uniform,
    weighted_mean,
)
from comigs_mlx.federation.formats.tensor_source import Source

SUMMARY = "average weighted by the training tokens that participants report"
HANDLES_RANKS = False
ROBUST = False
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The token-weighted mean."""
    del state
    total = sum(source.tokens for source in contributions)
    weights = {source.name: source.tokens / total for source in contributions if total}
    weights = weights or uniform(contributions)
    return Update(weights, weighted_mean(contributions, weights, current))
