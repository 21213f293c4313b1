"""Everybody alone: no exchange at all.

    theta_i <- argmin L_i(theta_i)

Two experts averaged (weights 1/2, 1/2), so that it has as many trainable parameters as
1G1S has experts; Fan et al., ICML 2025, compare in the same way. All differences in the
results are to this method.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method local
"""

from __future__ import annotations

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN), shared=False),),
    speaks=(EVEN,),
)
