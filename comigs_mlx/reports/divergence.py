"""Routing divergence: where two texts, or two people's runs, use experts differently.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2, divided by (H(p) + H(q)) / 2

p and q are the mean weights of a block over each group's tokens, H is the entropy in
nats. Source: Bandarkar et al., arXiv 2510.04694, who compare languages; which entropy
they divide by is not known here. What differs: where weights sum to s, the base's own
part 1 - s is one more entry (the rest rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Divergence:
    """How differently two groups are routed, block by block.

    Attributes:
        nats: The Jensen-Shannon divergence of each block, `[L]` in nats, from 0 to
            ln 2.
        entropy: The mean entropy of the two groups' weights, `[L]` in nats.
        normalised: `nats / entropy`, one a block; None where the entropy is 0 and the
            divergence is not.
    """

    nats: list[float]
    entropy: list[float]
    normalised: list[float | None]

    @property
    def mean(self) -> float | None:
        """The mean of `normalised` over the blocks that have a value."""
        known = [value for value in self.normalised if value is not None]
        return float(np.mean(known)) if known else None


def divergence(one: Array, other: Array) -> Divergence:
    """Compare the mean weights `[L, E]` of two groups.

    Raises:
        ValueError: If their shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"weights of shape {one.shape} and {other.shape}")
    p, q = (_with_rest(np.asarray(group, np.float64)) for group in (one, other))
    entropy = (_entropy(p) + _entropy(q)) / 2
    nats = np.maximum(_entropy((p + q) / 2) - entropy, 0.0)
    pairs = zip(nats.tolist(), entropy.tolist(), strict=True)
    normalised = [_divided(value, by) for value, by in pairs]
    return Divergence(nats.tolist(), entropy.tolist(), normalised)


def by_side(weights: Array, generalists: int) -> Array:
    """Sum weights `[L, E]` up to those of all generalists and all specialists,
    `[L, 2]`.
    """
    shared, own = weights[:, :generalists], weights[:, generalists:]
    return np.stack([shared.sum(1), own.sum(1)], axis=1)


def _with_rest(weights: Array) -> Array:
    """Add the base's part, and divide by the sum: `[L, E + 1]` that sum to 1."""
    rest = np.maximum(1 - weights.sum(-1, keepdims=True), 0.0)
    whole = np.concatenate([weights, rest], axis=-1)
    return whole / whole.sum(-1, keepdims=True)


def _entropy(p: Array) -> Array:
    safe = np.where(p > 0, p, 1.0)
    return -(p * np.log(safe)).sum(-1)


def _divided(nats: float, entropy: float) -> float | None:
    if entropy > 0:
        return nats / entropy
    return 0.0 if nats == 0 else None


def sentences(
    found: Divergence, within: Divergence | None, layers: Sequence[str], other: str
) -> list[str]:
    """Say in which blocks the groups differ, one sentence each.

    Args:
        found: The divergence of the two groups.
        within: That of two halves of the first group, as a measure of chance.
        layers: The paths of the blocks.
        other: The name of the second group.
    """
    if (mean := found.mean) is None:
        return [f"Every block gives {other} to one expert and this text to another."]
    told = f"Against {other}, the mean divergence over blocks is {mean:.3g}"
    if within is not None and within.mean is not None:
        told += f"; between two halves of the text itself it is {within.mean:.3g}"
    values = [float("inf") if v is None else v for v in found.normalised]
    most, least = int(np.argmax(values)), int(np.argmin(values))
    return [
        f"{told}.",
        f"Routing differs most in {layers[most]} and least in {layers[least]}.",
    ]
