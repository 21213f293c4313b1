"""HetLoRA: ranks may differ; zeros fill up, norms weigh, ranks shrink.

    theta <- sum_i w_i pad(theta_i),   w_i = ||B_i A_i||_F / sum_j ||B_j A_j||_F
    loss_i + lambda sum |A_tail| |B_tail|;  the tail is cut where it shrank in a round

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
Models", EMNLP 2024, from memory, with gamma = 0.99 (the tail begins at 99 % of the
rank, rounded down) and lambda = 0.001, not tuned. Everybody receives the first r_i
ranks. Ranks: `--participants FILE.yaml`. Two experts averaged. Differs: the norm is
that of all linears together, so one weight a participant; ranks are never below 1; the
moments of a cut rank are cut with it. The code of Fan et al., ICML 2025, has one expert
of rank 16, lambda 0.01 unless told, and weighs every matrix by its own norm.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method hetlora
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from comigs_mlx.federation.aggregation import lowrank
from comigs_mlx.federation.aggregation.aggregate import weighted_mean
from comigs_mlx.federation.formats.tensor_source import (
    PAIR,
    Arrays,
    Source,
    linears,
    wide,
)
from comigs_mlx.simulation.expert_shapes import tail
from comigs_mlx.simulation.method import EVEN, Meeting, Method, Stage, Tensors
from comigs_mlx.training.level import Task

GAMMA, LAMBDA = 0.99, 0.001


def shrinking(
    values: Mapping[str, mx.array], anchor: Mapping[str, mx.array]
) -> mx.array:
    """Lambda times the size of the last ranks; a scalar."""
    del anchor
    rank = next(a.shape[-1] for path, a in values.items() if path.endswith("lora_a"))
    return LAMBDA * tail(values, max(1, int(GAMMA * rank)))


def weigh_by_norm(meeting: Meeting) -> dict[str, Tensors]:
    """Everybody receives the mean weighted by the norms of the products."""
    norms = {source.name: _norm(source) for source in meeting.sources}
    total = math.fsum(norms.values())
    even = 1 / len(norms)
    weights = {name: norm / total if total else even for name, norm in norms.items()}
    current = Arrays("", dict(meeting.current))
    mean: Tensors = dict(weighted_mean(meeting.sources, weights, current))
    return dict.fromkeys(meeting.ranks, mean)


def _norm(source: Source) -> float:
    squares = []
    for linear in linears(source.names()):
        a, b = (wide(source, f"{linear}.{part}") for part in PAIR)
        squares.append(lowrank.norm([a], [b]) ** 2)
    return float(np.sqrt(math.fsum(squares)))


METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN, penalty=shrinking)),),
    mix=weigh_by_norm,
    speaks=(EVEN,),
    any_rank=True,
    prune=GAMMA,
)
