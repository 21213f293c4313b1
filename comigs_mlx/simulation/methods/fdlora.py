"""FDLoRA: a personal LoRA learnt first, a global one learnt together, fused at the end.

    theta_S: local training, then fixed;   theta_G: local steps, then averaged
    answer with w_G theta_G + w_S theta_S, (w_G, w_S) chosen on validation text

Qi et al., "FDLoRA: Personalized Federated Learning of Large Language Model via Dual
LoRA Tuning", 2024, from memory. The personal LoRA (the specialist) learns in the first
quarter of the rounds, the global one (the generalist, with the attention LoRA) in the
others; the fusion is the best of five pairs of weights that sum to 1. Differs: experts
are fused in their outputs, not in their weights; plain averaging instead of an outer
optimiser; the global LoRA begins fresh instead of as the mean of the personal ones; a
grid instead of a gradient-free search. The code of Fan et al., ICML 2025, differs from
both: one LoRA, averaged, and fused with its value before the last average.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method fdlora
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method, Stage
from comigs_mlx.training.level import Task

PERSONAL = Task(roles=("specialist",), selection="specialist")
GLOBAL = Task(roles=("generalist",), selection="generalist")

METHOD = Method(
    stages=(Stage(0.25, PERSONAL, shared=False), Stage(0.75, GLOBAL)),
    speaks=((0.5, 0.5), (1.0, 0.0), (0.75, 0.25), (0.25, 0.75), (0.0, 1.0)),
)
