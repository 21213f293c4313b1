"""Computes medians, ranges and ratios of interleaved runs. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with its range.

    Attributes:
        value: The median, or a ratio of two.
        low: The smallest of all rounds.
        high: The largest of all rounds.
    """

    value: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and range of one number a round; at least one round."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(ours: Sequence[float], reference: Sequence[float]) -> Spread:
    """Return the ratio of the medians, and the range of the ratios within a round.

    Two runs of one round are close in time, so their ratio is steadier than either.
    """
    value = statistics.median(ours) / statistics.median(reference)
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    return Spread(value, min(ratios), max(ratios))


def compared(reference: Sequence[float], ours: Sequence[float]) -> dict[str, Spread]:
    """Return the seconds of plain LoRA (`reference`) and of ours, and their ratio."""
    return {
        "plain_lora_s": spread(reference),
        "comigs_s": spread(ours),
        "ratio": ratio(ours, reference),
    }


def rate(count: float, seconds: Sequence[float]) -> Spread:
    """Convert `count` things a run to things per second."""
    times = spread(seconds)
    return Spread(count / times.value, count / times.high, count / times.low)
