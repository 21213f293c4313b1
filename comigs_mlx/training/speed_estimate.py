"""Guesses how long a training will take before the first one on this machine.

A step multiplies each token with every weight once forwards and once backwards, for the
gradient of what enters a layer; the frozen base needs no gradient of its own. Two
operations a weight and direction make 4 N for a base of N weights, and 6 for each
weight of the experts (Kaplan et al. 2020, "Scaling Laws for Neural Language Models",
section 2.1, counts 6 N where all is trained). Attention over earlier tokens is left
out. What a device does of the operations that a large product shows is `SHARE`.

It is a rough guess, good to a factor of two or three: `runs.estimate` knows better as
soon as anything was learnt here.
"""

from __future__ import annotations

import time

from comigs_mlx.options import TrainConfig
from comigs_mlx.training.peak_memory import FLOAT, Architecture

SIDE, TRIES = 1024, 3
"""The side of the matrices whose product is timed, and how often."""

SHARE = 0.3
"""The share of a large product's speed that a step reaches."""


def device_speed() -> float:
    """Time a product of matrices on MLX's device; operations a second.

    The quickest of some tries counts: other work on the machine only makes it slower.
    """
    import mlx.core as mx

    matrix = mx.ones((SIDE, SIDE))
    mx.eval(matrix @ matrix)  # the first one also starts threads
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        mx.eval(matrix @ matrix)
        seconds.append(time.perf_counter() - begin)
    return float(2 * SIDE**3 / max(min(seconds), 1e-9))


def operations(model: Architecture, config: TrainConfig) -> float:
    """Count the operations of a training for one token."""
    mlp = (model.readers + 1) * model.width * model.hidden
    attention = 2 * model.width * (model.queries + model.keys)
    weights = model.blocks * (mlp + attention) + model.vocabulary * model.width
    return 4 * weights + 6 * model.expert_bytes(config.experts) / FLOAT


def seconds(
    model: Architecture, config: TrainConfig, tokens: int, speed: float
) -> float:
    """Guess the seconds of a training.

    Args:
        model: The numbers of the base model.
        config: The options of the training.
        tokens: The tokens that its steps read.
        speed: The operations a second that `device_speed` found.
    """
    return tokens * operations(model, config) / (SHARE * speed)
