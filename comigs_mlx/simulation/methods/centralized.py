"""One model trained on everybody's text: what sharing all text would give.

    min_theta  sum_i n_i L_i(theta) / sum_i n_i

Two experts averaged, as in every method here without a router. One step is the mean
gradient of as many batches as there are participants, so that all methods see the same
number of tokens; windows are drawn from the joined text, so a participant weighs as
much as it has text. Fan et al., ICML 2025, give it as an upper bound; it is none where
one model cannot serve everybody.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method centralized
"""

from __future__ import annotations

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN), shared=False),),
    speaks=(EVEN,),
    pooled=True,
)
