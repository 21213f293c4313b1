"""HetLoRA: ranks may differ; zeros fill up, norms weigh, ranks shrink.

    theta <- sum_i w_i pad(theta_i),   w_i = ||B_i A_i||_F / sum_j ||B_j A_j||_F
    loss_i + lambda sum |A_tail| |B_tail|;  the tail is cut where it shrank in a round

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
Models", EMNLP 2024, from memory, with gamma = 0.99 (the tail begins at 99 % of the
rank, rounded down) and lambda = 0.001, not tuned. The weights are the aggregator
`norm_weighted`. Everybody receives the first r_i ranks. Ranks: `--participants
FILE.yaml`. Two experts averaged. Differs: the norm is that of all linears together, so
one weight a participant; ranks are never below 1; the moments of a cut rank are cut
with it. The code of Fan et al., ICML 2025, has one expert of rank 16, lambda 0.01
unless told, and weighs every matrix by its own norm.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method hetlora
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from comigs_mlx.simulation.expert_shapes import tail
from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

GAMMA, LAMBDA = 0.99, 0.001


def shrinking(
    values: Mapping[str, mx.array], anchor: Mapping[str, mx.array]
) -> mx.array:
    """Return lambda times the size of the last ranks; a scalar."""
    del anchor
    rank = next(a.shape[-1] for path, a in values.items() if path.endswith("lora_a"))
    return LAMBDA * tail(values, max(1, int(GAMMA * rank)))


METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN, penalty=shrinking)),),
    aggregator="norm_weighted",
    speaks=(EVEN,),
    any_rank=True,
    prune=GAMMA,
)
