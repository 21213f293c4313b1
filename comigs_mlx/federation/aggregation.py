"""From many generalists to one: what all aggregators share, and the door to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from comigs_mlx import registry
from comigs_mlx.errors import ConfigError, FederationError, raise_all
from comigs_mlx.federation import lowrank
from comigs_mlx.federation.sources import (
    PAIR,
    Array,
    Source,
    Wide,
    linears,
    wide,
)
from comigs_mlx.federation.strict import shown


@dataclass(frozen=True)
class Option:
    """One number that an aggregator can be told."""

    default: float
    low: float
    high: float
    help: str


@dataclass(frozen=True)
class Aggregate:
    """A result under way.

    Attributes:
        weights: Participant -> share in the result; empty where the aggregator does
            not weigh whole contributions.
        tensors: The new generalists' tensors, float32, made one by one when asked for.
    """

    weights: dict[str, float]
    tensors: Iterator[tuple[str, Array]]


def aggregate(
    name: str,
    contributions: Sequence[Source],
    current: Source,
    options: Mapping[str, Any] | None = None,
) -> Aggregate:
    """Combine contributions with the aggregator `name`.

    The order of `contributions` makes no difference: they are sorted by participant.

    Args:
        name: A file of `aggregators`.
        contributions: At least one, of different participants.
        current: The generalists that all of them started from; gives the shapes.
        options: Those that differ from the aggregator's defaults.

    Raises:
        FederationError: If there is no contribution, a name twice, or an option cannot
            work.
    """
    given = dict(options or {})
    raise_all(FederationError, list(problems(name, given)))
    ordered = sorted(contributions, key=lambda source: source.name)
    if not ordered:
        raise FederationError("nothing to aggregate: the round has no contribution")
    if len({source.name for source in ordered}) < len(ordered):
        raise FederationError("a participant contributes twice to one round")
    plugin = load(name)
    defaults = {key: option.default for key, option in plugin.OPTIONS.items()}
    result: Aggregate = plugin.aggregate(ordered, current, **(defaults | given))
    return result


def load(name: str) -> ModuleType:
    """The aggregator `name`.

    Raises:
        FederationError: If this version has none of that name.
    """
    try:
        return registry.load("aggregator", name)
    except ConfigError as error:
        raise FederationError(str(error)) from None


def problems(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a choice of aggregator and options; one sentence each."""
    known = registry.names("aggregator")
    if name not in known:
        yield f"unknown aggregator {shown(name)}: choose one of {', '.join(known)}"
        return
    offered: Mapping[str, Option] = load(name).OPTIONS
    for key, value in options.items():
        option = offered.get(key)
        if option is None:
            yield f"the aggregator {name} has no option {shown(key)}"
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name}: {key} is not a number: {shown(value)}"
        elif not option.low <= value <= option.high:
            limits = f"{option.low} to {option.high}"
            yield f"{name}: {key} {shown(value)} is not from {limits}"


def uniform(contributions: Sequence[Source]) -> dict[str, float]:
    """The same share for everyone."""
    return {source.name: 1 / len(contributions) for source in contributions}


def weighted_mean(
    contributions: Sequence[Source],
    weights: Mapping[str, float],
    current: Source,
) -> Iterator[tuple[str, Array]]:
    """sum_i w_i theta_i + (1 - sum_i w_i) theta, in float64.

    Holds one tensor of one contribution at a time. Where the weights sum to one (within
    rounding) `current` gives its names only.
    """
    rest = 1 - math.fsum(weights.values())
    for name in current.names():
        total: Wide | None = None
        for source in contributions:
            if weights[source.name]:
                part = wide(source, name) * weights[source.name]
                total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        if abs(rest) > 1e-12:
            total += rest * wide(current, name)
        yield name, total.astype(np.float32)


def stacked(contributions: Sequence[Source], tensor: str) -> Array:
    """One tensor of all contributions, [participants, ...] float32."""
    return np.stack([source.read(tensor) for source in contributions])


def update_norms(
    contributions: Sequence[Source], current: Source, products: bool = False
) -> Wide:
    """Length of each contribution's update, all tensors together, [participants].

    Args:
        contributions: Read one tensor at a time.
        current: What they started from.
        products: Measure the update of each lora_a @ lora_b instead of the factors';
            the ranks may then differ.
    """
    squares = np.zeros(len(contributions))
    for linear in linears(current.names()):
        a, b = (wide(current, f"{linear}.{part}") for part in PAIR)
        for index, source in enumerate(contributions):
            a_i, b_i = (wide(source, f"{linear}.{part}") for part in PAIR)
            if products:
                squares[index] += lowrank.norm([a_i, -a], [b_i, b]) ** 2
            else:
                squares[index] += ((a_i - a) ** 2).sum() + ((b_i - b) ** 2).sum()
    return np.sqrt(squares)


def inexactness(contributions: Sequence[Source]) -> float | None:
    """How far averaging the factors is from averaging what they mean.

    ||mean(B A) - mean(B) mean(A)||_F / ||mean(B A)||_F over all linears together: what
    the average of low-rank factors misses (Sun et al., FFA-LoRA, ICLR 2024, section
    3). The difference is computed as mean((B - mean B)(A - mean A)), the same without
    cancellation. Reads every tensor twice; memory as of `lowrank.LowRankSum`.

    Returns:
        A number from 0 (exact) up; 0 where nothing is learnt yet; None where ranks
        differ, since factors then have no average.
    """
    missed = total = 0.0
    for linear in linears(contributions[0].names()):
        means = [_mean(contributions, f"{linear}.{part}") for part in PAIR]
        if (a := means[0]) is None or (b := means[1]) is None:
            return None
        rest = lowrank.LowRankSum()
        for source in contributions:
            a_i, b_i = (wide(source, f"{linear}.{part}") for part in PAIR)
            rest.add(a_i - a, b_i - b)
        missed += rest.norm() ** 2
        rest.add(len(contributions) * a, b)  # now it is the sum of all B A
        total += rest.norm() ** 2
    return math.sqrt(missed / total) if missed else 0.0


def _mean(contributions: Sequence[Source], tensor: str) -> Wide | None:
    """The average of one tensor; None where shapes differ."""
    total: Wide | None = None
    for source in contributions:
        part = wide(source, tensor)
        if total is None:
            total = part
        elif total.shape != part.shape:
            return None
        else:
            total += part
    assert total is not None
    return np.divide(total, len(contributions))
