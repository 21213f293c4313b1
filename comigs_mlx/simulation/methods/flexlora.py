"""FlexLoRA: products are averaged, and everybody gets factors of its own rank.

    M = 1/N sum_i B_i A_i = U S V^T,   participant i receives the first r_i of U, S, V

Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks
and Client Resources", NeurIPS 2024, from memory: the aggregator `svd`, at the largest
rank; its factors are sorted, so that their first r_i are the best approximation of rank
r_i. Ranks: `--participants FILE.yaml`. Two experts averaged, each factored by itself.
Differs: the same share for everybody instead of shares by size of data; one scale for
all ranks, as products could not be averaged otherwise. The code of Fan et al., ICML
2025, has one expert of rank 16, and takes products in the MLPs only.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method flexlora
"""

from __future__ import annotations

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN)),),
    aggregator="svd",
    speaks=(EVEN,),
    any_rank=True,
)
