"""The average of the factors, weighted by how much each contribution adds: HetLoRA's.

    theta <- sum_i w_i theta_i,   w_i = ||B_i A_i||_F / sum_j ||B_j A_j||_F

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
Models", EMNLP 2024, from memory. The norm is that of all linears together, so that a
participant has one weight; smaller ranks are filled up with zeros by those who send
them, which changes no product. Whoever sends large numbers weighs more: use it among
people who trust each other. Where nobody has learnt anything, all weigh the same.
Reads every tensor twice. Memory: one linear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.federation.aggregation import lowrank
from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    uniform,
    weighted_mean,
)
from comigs_mlx.federation.formats.tensor_source import PAIR, Source, linears, wide

SUMMARY = "average weighted by the norms of the products B A (HetLoRA)"
HANDLES_RANKS = False
ROBUST = False
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The mean weighted by norms."""
    del state
    norms = {source.name: _norm(source) for source in contributions}
    total = math.fsum(norms.values())
    weights = {name: norm / total for name, norm in norms.items() if total}
    weights = weights or uniform(contributions)
    return Update(weights, weighted_mean(contributions, weights, current))


def _norm(source: Source) -> float:
    """The Frobenius norm of all products together."""
    squares = []
    for linear in linears(source.names()):
        a, b = (wide(source, f"{linear}.{part}") for part in PAIR)
        squares.append(lowrank.norm([a], [b]) ** 2)
    return float(np.sqrt(math.fsum(squares)))
