"""Who takes part in a round, and whose contribution is lost: functions of the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig


def active(names: Sequence[str], share: float, seed: int, round: int) -> list[str]:
    """A share of the participants, at least one, in the order of `names`."""
    count = max(1, math.floor(share * len(names) + 0.5))
    chosen = np.random.default_rng([seed, round, 0]).permutation(len(names))[:count]
    return [names[i] for i in sorted(chosen)]


def lost(names: Sequence[str], chance: float, seed: int, round: int) -> list[str]:
    """Those of `names` to whom it happens, each with the same chance."""
    draws = np.random.default_rng([seed, round, 1]).random(len(names))
    return [name for name, draw in zip(names, draws, strict=True) if draw < chance]


def rounds(method: Method, config: SimulateConfig) -> int:
    """How many there are."""
    return config.sharing.rounds if method.trained else 0


def steps(
    method: Method,
    names: Sequence[str],
    config: SimulateConfig,
    seed: int,
    first: int = 0,
) -> int:
    """Expert steps that participants of these names make from round `first` on."""
    share, left = config.sharing.participation, range(first, rounds(method, config))
    return config.sharing.local_steps * sum(
        len(active(names, share, seed, round)) for round in left
    )
