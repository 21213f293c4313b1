"""The average of the updates, with momentum: FedAvgM.

    m <- momentum m + 1/N sum_i (theta_i - theta)
    theta <- theta + rate m

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification", 2019, section 4 (FedAvgM; there rate = 1 and participants weigh
as much as they have examples, here all have the same share); Reddi et al., "Adaptive
Federated Optimization", ICLR 2021, has the rate. With momentum 0 and rate 1 it is the
mean. The defaults are Hsu's momentum of 0.9 and a rate of 0.1, which together move as
far as the mean does where all rounds point in one direction; they are not tuned.
State: m, as many numbers as the generalists. Memory: the state and one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import (
    Option,
    State,
    Update,
    mean_update,
    uniform,
)
from comigs_mlx.federation.formats.tensor_source import Array, Source, wide

SUMMARY = "average of the updates with momentum, kept in the federation"
HANDLES_RANKS = False
ROBUST = False
OPTIONS = {
    "momentum": Option(0.9, 0, 0.9999, "share of the last step that goes on"),
    "rate": Option(0.1, 1e-6, 1e3, "length of a step, in lengths of the momentum"),
}


def init(current: Source, momentum: float, rate: float) -> State:
    """No momentum."""
    del momentum, rate
    return {name: np.zeros_like(current.read(name)) for name in current.names()}


def update(
    contributions: Sequence[Source],
    current: Source,
    state: State,
    momentum: float,
    rate: float,
) -> Update:
    """One step of the server's momentum."""
    after = {
        name: (momentum * state[name].astype(np.float64) + mean).astype(np.float32)
        for name, mean in mean_update(contributions, current)
    }
    return Update(uniform(contributions), _moved(current, after, rate), after)


def _moved(
    current: Source, momentum: State, rate: float
) -> Iterator[tuple[str, Array]]:
    for name in current.names():
        step = rate * momentum[name].astype(np.float64)
        yield name, (wide(current, name) + step).astype(np.float32)
