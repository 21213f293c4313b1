"""FFA-LoRA: A stays as it was drawn, so that averaging B is exact.

    W + B_i A,  B <- 1/N sum_i B_i,  A frozen and the same for all

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, from
memory. Two experts averaged. The recorded inexactness is 0. Differs: no noise is added;
our files carry A too, so the bytes are FedAvg's where the method needs half; fewer
parameters learn than in the other methods. The code of Fan et al., ICML 2025, has one
expert of rank 16 and freezes A in the MLPs only.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method ffa-lora
"""

from __future__ import annotations

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN, frozen=("lora_a",))),),
    speaks=(EVEN,),
)
