"""PCL: everybody trusts the others by how well their models do on its validation text.

    theta_i <- sum_j w_ij theta_j,   w_ij = softmax_j(-L_i^valid(theta_j))

Wagner, Fan, Jaggi, "Personalized Collaborative Fine-Tuning for On-Device Large Language
Models", COLM 2024, the strategy by validation performance. Two experts averaged. The
loss is taken on the first `--valid-batches` batches. Every participant downloads
everybody's contribution, which the bytes count. Differs: the code its authors published
takes the softmax of minus the perplexity, on 12 batches, which is much nearer to
trusting oneself alone; and one expert mixes there.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method pcl
"""

from __future__ import annotations

import math

from comigs_mlx.federation.aggregation.aggregate import weighted_mean
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.simulation.method import EVEN, Meeting, Method, Stage, Tensors
from comigs_mlx.training.level import Task


def mix_by_trust(meeting: Meeting) -> dict[str, Tensors]:
    """Everybody receives a mean of its own."""
    current = Arrays("", dict(meeting.current))
    tensors = {
        source.name: {name: source.read(name) for name in source.names()}
        for source in meeting.sources
    }
    mixed: dict[str, Tensors] = {}
    for member in meeting.ranks:
        losses = {name: meeting.loss(member, own) for name, own in tensors.items()}
        least = min(losses.values())
        trust = {name: math.exp(least - loss) for name, loss in losses.items()}
        total = math.fsum(trust.values())
        weights = {name: one / total for name, one in trust.items()}
        mixed[member] = dict(weighted_mean(meeting.sources, weights, current))
    return mixed


METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN)),),
    mix=mix_by_trust,
    speaks=(EVEN,),
)
