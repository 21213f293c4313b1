"""The average of the updates as the gradient of a server's Adam: FedAdam.

    delta = 1/N sum_i (theta_i - theta)
    m <- beta1 m + (1 - beta1) delta,   v <- beta2 v + (1 - beta2) delta^2
    theta <- theta + rate m / (sqrt(v) + tau),   m = 0 and v = tau^2 at the beginning

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2 (FedAdam),
without bias correction, as there. The betas and tau are the paper's; the rate is our
choice for LoRA pairs, not tuned. Every number moves by about the same in each round,
however large the updates are, so that one participant's large update cannot move a
number far; hostile ones still choose the direction. All have the same share.
State: m and v, twice as many numbers as the generalists. Memory: the state and one
tensor.
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

SUMMARY = "a server's Adam steps along the averaged updates, kept in the federation"
HANDLES_RANKS = False
ROBUST = False
OPTIONS = {
    "rate": Option(0.01, 1e-8, 1e3, "length of a step, for every number"),
    "beta1": Option(0.9, 0, 0.9999, "decay of the first moment"),
    "beta2": Option(0.99, 0, 0.999999, "decay of the second moment"),
    "tau": Option(1e-3, 1e-8, 1e3, "adaptivity: updates below it count as small"),
}
FIRST, SECOND = "m/", "v/"


def init(current: Source, rate: float, beta1: float, beta2: float, tau: float) -> State:
    """The first moment is 0, the second one tau^2, the least that the paper allows."""
    del rate, beta1, beta2
    state: dict[str, Array] = {}
    for name in current.names():
        state[FIRST + name] = np.zeros_like(current.read(name))
        state[SECOND + name] = np.full_like(current.read(name), tau**2)
    return state


def update(
    contributions: Sequence[Source],
    current: Source,
    state: State,
    rate: float,
    beta1: float,
    beta2: float,
    tau: float,
) -> Update:
    """One step of the server's Adam."""
    after: dict[str, Array] = {}
    for name, delta in mean_update(contributions, current):
        m, v = (state[part + name].astype(np.float64) for part in (FIRST, SECOND))
        m, v = beta1 * m + (1 - beta1) * delta, beta2 * v + (1 - beta2) * delta**2
        after[FIRST + name] = m.astype(np.float32)
        after[SECOND + name] = v.astype(np.float32)
    return Update(uniform(contributions), _moved(current, after, rate, tau), after)


def _moved(
    current: Source, state: State, rate: float, tau: float
) -> Iterator[tuple[str, Array]]:
    for name in current.names():
        m, v = (state[part + name].astype(np.float64) for part in (FIRST, SECOND))
        step = rate * m / (np.sqrt(v) + tau)
        yield name, (wide(current, name) + step).astype(np.float32)
