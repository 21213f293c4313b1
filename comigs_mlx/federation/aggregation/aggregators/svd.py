"""The average of the products B A, factored anew to the federation's rank.

    M = 1/N sum_i B_i A_i = U S V^T   ->   B = U_r S_r^(1/2),  A = S_r^(1/2) V_r^T

Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks
and Client Resources", NeurIPS 2024 (FlexLoRA). Exact where M has rank r or less, the
best approximation otherwise, and participants may have ranks of their own. The SVD is
that of the stacked factors' small core while they are few (`lowrank.LowRankSum`).
Directions that M does not use keep the current lora_a with zeros in lora_b, so that
they can still learn. Memory: one linear: its product and 256 columns of factors.
Time: an SVD a linear, and of hundreds of participants that of the whole product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    uniform,
)
from comigs_mlx.federation.aggregation.lowrank import LowRankSum
from comigs_mlx.federation.formats.tensor_source import (
    PAIR,
    Array,
    Source,
    linears,
    wide,
)

SUMMARY = "average of the products B A, factored anew: exact, and ranks may differ"
HANDLES_RANKS = True
ROBUST = False
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The mean of the products."""
    del state
    return Update(uniform(contributions), _factored(contributions, current))


def _factored(
    contributions: Sequence[Source], current: Source
) -> Iterator[tuple[str, Array]]:
    for linear in linears(current.names()):
        total = LowRankSum()
        for source in contributions:
            a, b = (wide(source, f"{linear}.{part}") for part in PAIR)
            total.add(a / len(contributions), b)
        left, values, right = total.svd()
        a, b = (wide(current, f"{linear}.{part}") for part in PAIR)
        used = min(len(values), a.shape[1])
        root = np.sqrt(values[:used])
        a[:, :used] = left[:, :used] * root
        b[:used], b[used:] = root[:, None] * right[:used], 0.0
        yield f"{linear}.lora_a", a.astype(np.float32)
        yield f"{linear}.lora_b", b.astype(np.float32)
