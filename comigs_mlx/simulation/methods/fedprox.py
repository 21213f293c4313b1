"""FedProx: FedAvg, and no participant moves far from what it received.

    min_theta  L_i(theta) + mu/2 ||theta - theta_received||^2

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2,
on LoRA pairs; mu = 0.01 is our choice, not tuned. Two experts averaged. Differs:
everybody makes the same number of steps, so only the proximal term is left of the
method; AdamW instead of SGD.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method fedprox
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

MU = 0.01


def proximal(
    values: Mapping[str, mx.array], anchor: Mapping[str, mx.array]
) -> mx.array:
    """Return mu/2 times the squared distance of `values` from those received; a
    scalar.
    """
    squares = [(array - anchor[path]).square().sum() for path, array in values.items()]
    return MU / 2 * mx.stack(squares).sum()


METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN, penalty=proximal)),),
    speaks=(EVEN,),
)
