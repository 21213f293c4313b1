"""The average of the factors, everyone with the same share: the paper's.

    theta <- 1/N sum_i theta_i

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017 (FedAvg) without its weights; Fan et al., "On-Device Collaborative
Language Modeling via a Mixture of Generalists and Specialists", ICML 2025, algorithm 1.
Averaging B and A apart is not averaging B A: `aggregation.inexactness` measures it.
Memory: one tensor, however many participants.
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

SUMMARY = "average of the contributions, the same share for everyone (the paper's)"
HANDLES_RANKS = False
ROBUST = False
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The uniform mean."""
    del state
    weights = uniform(contributions)
    return Update(weights, weighted_mean(contributions, weights, current))
