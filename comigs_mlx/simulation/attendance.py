"""Draws who takes part in a round, and whose contribution is lost, from the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig


def active(names: Sequence[str], share: float, seed: int, round: int) -> list[str]:
    """Draw a share of the participants, at least one, in the order of `names`."""
    count = max(1, math.floor(share * len(names) + 0.5))
    drawn = np.random.default_rng([seed, round, 0]).permutation(len(names))[:count]
    return [names[i] for i in sorted(drawn)]


def lost(names: Sequence[str], chance: float, seed: int, round: int) -> list[str]:
    """Draw those of `names` whose contribution is lost, each with the same chance."""
    draws = np.random.default_rng([seed, round, 1]).random(len(names))
    return [name for name, draw in zip(names, draws, strict=True) if draw < chance]


def rounds(method: Method, config: SimulateConfig) -> int:
    """Count the rounds of a method."""
    return config.sharing.rounds if method.trained else 0


def steps(
    method: Method,
    names: Sequence[str],
    config: SimulateConfig,
    seed: int,
    first: int = 0,
) -> int:
    """Count the expert steps that these participants make from round `first` on."""
    share, remaining = (
        config.sharing.participation,
        range(first, rounds(method, config)),
    )
    return config.sharing.local_steps * sum(
        len(active(names, share, seed, round)) for round in remaining
    )
