"""FedAvg: everything is averaged after every round.

    theta <- 1/N sum_i theta_i

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, on LoRA pairs. Two experts averaged, both generalists. Differs: the
same share for everybody, as in CoMiGS (`--aggregator tokens` weighs by tokens); A and B
are averaged apart, and the round's inexactness is recorded; optimisers keep their state
from round to round.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method fedavg
"""

from __future__ import annotations

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN)),),
    speaks=(EVEN,),
)
