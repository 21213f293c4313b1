"""CoMiGS with one specialist and as many generalists as a device can hold.

    generalist_j <- mean over the participants that have a generalist j

Fan et al., ICML 2025, the other way to use larger devices. The numbers come from
`--participants FILE.yaml` (`ann: {generalists: 2}`). Differs: a participant's files
name all generalists of the federation, those that it does not have unchanged, and they
do not count: averaging over those that have one is our choice.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-xg1s
"""

from __future__ import annotations

import numpy as np

from comigs_mlx.expert_shape import split
from comigs_mlx.federation.formats.tensor_source import Array, wide
from comigs_mlx.simulation.method import Meeting, Method, Tensors


def mean_of_holders(meeting: Meeting) -> dict[str, Tensors]:
    """Everybody receives, for each generalist, the mean over those who have it."""
    mean: dict[str, Array] = {}
    for name, now in meeting.current.items():
        index, _ = split(name)
        holders = [s for s in meeting.sources if meeting.generalists[s.name] > index]
        if not holders:
            mean[name] = now
            continue
        total = sum((wide(s, name) for s in holders), np.zeros(now.shape))
        mean[name] = (total / len(holders)).astype(np.float32)
    return dict.fromkeys(meeting.ranks, mean)


METHOD = Method(generalists=None, router="alternating", mix=mean_of_holders)
