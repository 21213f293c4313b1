"""From many generalists to one: what all aggregators share, and the door to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from comigs_mlx import registry
from comigs_mlx.errors import ConfigError, FederationError, raise_all
from comigs_mlx.federation.aggregation import lowrank
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.formats.tensor_source import (
    PAIR,
    Array,
    Source,
    Wide,
    linears,
    wide,
)


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


@dataclass(frozen=True)
class Combined:
    """What a round's contributions make: always something that can be published.

    Attributes:
        weights: As of `Aggregate`; a contributor that was left out has 0.
        tensors: Tensor -> float32 values, finite, of the shapes of the generalists that
            the round started from.
        notes: What is to be said of it, a sentence each.
    """

    weights: dict[str, float]
    tensors: dict[str, Array]
    notes: tuple[str, ...] = ()


def combine(
    name: str,
    contributions: Sequence[Source],
    current: Source,
    options: Mapping[str, Any] | None = None,
    still: Collection[str] = (),
) -> Combined:
    """`aggregate`, whatever strangers' numbers do to it.

    Where the result is not finite, the generalists stay as they are: no contribution
    may keep a round from closing, and nothing is published that nobody could pull.
    A mean counts the contributions that hold something new; who contributes the
    generalists just as they were would only shorten everybody's step. For the robust
    aggregators an unchanged number is a vote like every other one.

    Args:
        name: As of `aggregate`.
        contributions: As of `aggregate`.
        current: As of `aggregate`.
        options: As of `aggregate`.
        still: Participants whose update is zero.

    Raises:
        FederationError: As `aggregate`.
    """
    counted = [source for source in contributions if source.name not in still]
    if load(name).ROBUST or not counted:
        counted = list(contributions)
    try:
        with np.errstate(all="ignore"):
            result = aggregate(name, counted, current, options)
            tensors = dict(result.tensors)
        if _fits(tensors, current):
            return Combined(_shares(result, contributions), tensors)
    except (ArithmeticError, np.linalg.LinAlgError):
        pass  # numbers at the end of the range: the same as no finite result
    kept = {tensor: current.read(tensor) for tensor in current.names()}
    note = f"the {name} of these contributions is not finite: nothing was changed"
    return Combined({}, kept, (note,))


def _fits(tensors: Mapping[str, Array], current: Source) -> bool:
    return tensors.keys() == set(current.names()) and all(
        values.shape == current.read(name).shape and bool(np.isfinite(values).all())
        for name, values in tensors.items()
    )


def _shares(result: Aggregate, contributions: Sequence[Source]) -> dict[str, float]:
    """The weights, of all contributors where there are any, from 0 to 1."""
    if not result.weights:
        return {}
    found = {
        source.name: result.weights.get(source.name, 0) for source in contributions
    }
    return {name: min(max(weight, 0.0), 1.0) for name, weight in found.items()}


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
            yield f"the aggregator {name} has no option {shown(key)}: {_takes(offered)}"
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name}: {key} is not a number: {shown(value)}"
        elif not option.low <= value <= option.high:
            limits = f"{option.low} to {option.high}"
            yield f"{name}: {key} {shown(value)} is not from {limits}"


def check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a choice of aggregator that this version cannot combine anything with.

    Args:
        name: The aggregator that a manifest names.
        options: The options that the manifest gives it.

    Raises:
        FederationError: If there is no such aggregator, or an option cannot work.
    """
    wrong = [f"{problem} (federation.json)" for problem in problems(name, options)]
    raise_all(FederationError, wrong)


def misnamed(choice: str) -> Iterator[str]:
    """What is wrong with a value of `--aggregator`; one sentence each.

    Args:
        choice: `name` or `name:key=value,...`.
    """
    try:
        name, options = registry.parse(choice)
    except ConfigError as error:
        yield f"--aggregator {error}"
    else:
        yield from (f"--aggregator: {wrong}" for wrong in problems(name, options))


def _takes(offered: Mapping[str, Option]) -> str:
    """The options that can be given, with their ranges."""
    known = [f"{k} ({o.low:g} to {o.high:g})" for k, o in sorted(offered.items())]
    return f"it takes {', '.join(known)}" if known else "it takes none"


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


ROUNDING = 1e-14
"""What is shorter than this, in lengths of what was added up, is rounding."""

MOST_INEXACT = 1e9
"""The largest inexactness that round.json has room for."""


def inexactness(contributions: Sequence[Source]) -> float | None:
    """How far averaging the factors is from averaging what they mean.

    ||mean(B A) - mean(B) mean(A)||_F / ||mean(B A)||_F over all linears together: what
    the average of low-rank factors misses (Sun et al., FFA-LoRA, ICLR 2024, section
    3). The difference is computed as mean((B - mean B)(A - mean A)), the same without
    cancellation. Reads every tensor twice; memory as of `lowrank.LowRankSum`.

    Returns:
        A number from 0 (exact) up; 0 where nothing is learnt yet; None where there is
        none: ranks differ, so that factors have no average, or the products cancel,
        so that there is nothing to relate the difference to (above 10^9).
    """
    missed = total = size = 0.0
    with np.errstate(all="ignore"):  # strangers' numbers; what comes of them is seen
        for linear in linears(contributions[0].names()):
            found = _missed(contributions, linear)
            if found is None:
                return None
            missed, total, size = missed + found[0], total + found[1], size + found[2]
    if missed <= size * ROUNDING**2:
        return 0.0
    ratio = math.sqrt(missed / total) if total > size * ROUNDING**2 else math.inf
    return ratio if ratio <= MOST_INEXACT else None


def _missed(
    contributions: Sequence[Source], linear: str
) -> tuple[float, float, float] | None:
    """Squared lengths in one linear; None where shapes differ.

    Returns:
        That of sum (B - mean B)(A - mean A), that of sum B A, and the most that the
        latter could have, which tells rounding from a result.
    """
    a, b = (_mean(contributions, f"{linear}.{part}") for part in PAIR)
    if a is None or b is None:
        return None
    rest, size = lowrank.LowRankSum(), 0.0
    for source in contributions:
        a_i, b_i = (wide(source, f"{linear}.{part}") for part in PAIR)
        size += float(np.linalg.norm(a_i) * np.linalg.norm(b_i))
        rest.add(a_i - a, b_i - b)
    missed = rest.norm() ** 2
    rest.add(len(contributions) * a, b)  # now it is the sum of all B A
    return missed, rest.norm() ** 2, size**2


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
