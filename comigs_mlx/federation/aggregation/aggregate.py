"""From many generalists to one: what all aggregators share, and the door to them.

An aggregator is one file of `aggregators` with a function

    update(contributions, current, state, **options) -> Update

and, where it remembers something from round to round, a function

    init(current, **options) -> State

that gives the memory to begin with. `Update.shared` is what everybody receives and
`Update.state` is what the next round's `update` is given. The state belongs to the
federation, not to whoever closes a round: it lies in the repository (`state_file`), and
everybody can compute it again. An aggregator therefore sees nothing but contributions,
and gives the same to everybody; what a participant mixes for itself alone, because it
judges by private text, is computed by that participant (see `personal`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    Arrays,
    Source,
    Wide,
    linears,
    wide,
)


@dataclass(frozen=True)
class Option:
    """One number that an aggregator can be told.

    Attributes:
        default: The value where none is given.
        low: The least value.
        high: The largest value.
        help: What it means, in a few words.
        also: Another name that the command line takes for it; federation.json always
            has the option's own name.
    """

    default: float
    low: float
    high: float
    help: str
    also: str | None = None


State = Mapping[str, Array]
"""Name -> float32 values that an aggregator keeps from round to round."""


@dataclass(frozen=True)
class Update:
    """The result of one round, under way.

    Attributes:
        weights: The share of each participant in the result; it is empty where the
            aggregator does not weigh whole contributions.
        shared: The tensors that everybody receives, float32; each one is made when it
            is asked for.
        state: What the next round's `update` is given; it has the names and shapes of
            what `init` gave, and is empty where the aggregator remembers nothing.
    """

    weights: dict[str, float]
    shared: Iterator[tuple[str, Array]]
    state: State = field(default_factory=dict)


def aggregate(
    name: str,
    contributions: Sequence[Source],
    current: Source,
    options: Mapping[str, Any] | None = None,
    state: State | None = None,
) -> Update:
    """Combine contributions with the aggregator `name`.

    The order of `contributions` makes no difference: they are sorted by participant.

    Args:
        name: The name of a file of `aggregators`.
        contributions: At least one contribution; all are of different participants.
        current: The generalists that all of them started from; they give the shapes.
        options: The options that differ from the aggregator's defaults.
        state: The aggregator's state after the round before; None stands for the one
            that it begins with.

    Raises:
        FederationError: If there is no contribution, if a name comes twice, or if an
            option cannot work.
    """
    given = _options(name, options)
    ordered = sorted(contributions, key=lambda source: source.name)
    if not ordered:
        raise FederationError("nothing to aggregate: the round has no contribution")
    if len({source.name for source in ordered}) < len(ordered):
        raise FederationError("a participant contributes twice to one round")
    if state is None:
        state = initial(name, current, options)
    result: Update = load(name).update(ordered, current, state, **given)
    return result


def initial(
    name: str, current: Source, options: Mapping[str, Any] | None = None
) -> State:
    """The state that the aggregator `name` begins with; empty where it keeps none.

    Args:
        name: The name of a file of `aggregators`.
        current: The generalists of the round before the first update.
        options: The options that differ from the aggregator's defaults.

    Raises:
        FederationError: If an option cannot work.
    """
    given, plugin = _options(name, options), load(name)
    state: State = plugin.init(current, **given) if hasattr(plugin, "init") else {}
    return state


def _options(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """All options of an aggregator: those given, and the defaults of the others."""
    given = dict(options or {})
    raise_all(FederationError, list(problems(name, given)))
    defaults = {key: option.default for key, option in load(name).OPTIONS.items()}
    return defaults | given


@dataclass(frozen=True)
class Combined:
    """What a round's contributions make: always something that can be published.

    Attributes:
        weights: The shares as in `Update`; a contributor that was left out has 0.
        tensors: Tensor -> float32 values, finite, of the shapes of the generalists that
            the round started from.
        notes: What is to be said of the result, a sentence each.
        state: The aggregator's state for the next round, finite; see `Update`.
    """

    weights: dict[str, float]
    tensors: dict[str, Array]
    notes: tuple[str, ...] = ()
    state: State = field(default_factory=dict)


def combine(
    name: str,
    contributions: Sequence[Source],
    current: Source,
    options: Mapping[str, Any] | None = None,
    still: Collection[str] = (),
    state: State | None = None,
) -> Combined:
    """Combine contributions, whatever strangers' numbers do to the result.

    Where the result is not finite, generalists and state stay as they are: no
    contribution may keep a round from closing, and nothing is published that nobody
    could pull.
    A mean counts the contributions that hold something new; who contributes the
    generalists just as they were would only shorten everybody's step. For the robust
    aggregators an unchanged number is a vote like every other one.

    Args:
        name: The same as of `aggregate`.
        contributions: The same as of `aggregate`.
        current: The same as of `aggregate`.
        options: The same as of `aggregate`.
        still: The participants whose update is zero.
        state: The same as of `aggregate`.

    Raises:
        FederationError: As `aggregate` does.
    """
    counted = [source for source in contributions if source.name not in still]
    if load(name).ROBUST or not counted:
        counted = list(contributions)
    before = initial(name, current, options) if state is None else state
    try:
        with np.errstate(all="ignore"):
            result = aggregate(name, counted, current, options, before)
            tensors = dict(result.shared)
        if _fits(tensors, current) and _fits(result.state, Arrays("", before)):
            shares = _shares(result, contributions)
            return Combined(shares, tensors, state=result.state)
    except (ArithmeticError, np.linalg.LinAlgError):
        pass  # numbers at the end of the range: the same as no finite result
    kept = {tensor: current.read(tensor) for tensor in current.names()}
    note = f"the {name} of these contributions is not finite: nothing was changed"
    return Combined({}, kept, (note,), before)


def _fits(tensors: Mapping[str, Array], current: Source) -> bool:
    return tensors.keys() == set(current.names()) and all(
        values.shape == current.read(name).shape and bool(np.isfinite(values).all())
        for name, values in tensors.items()
    )


def _shares(result: Update, contributions: Sequence[Source]) -> dict[str, float]:
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


def parse(choice: str) -> tuple[str, dict[str, registry.Value]]:
    """The aggregator and its options in a value of `--aggregator`.

    Args:
        choice: The text `name` or `name:key=value,...`; a key may also be the other
            name of an option.

    Raises:
        ConfigError: If it is not written so, or if an option comes twice.
    """
    name, given = registry.parse(choice)
    known = name in registry.names("aggregator")
    offered: Mapping[str, Option] = load(name).OPTIONS if known else {}
    names = {option.also: key for key, option in offered.items()}
    options = {names.get(key, key): value for key, value in given.items()}
    if len(options) < len(given):
        raise ConfigError(f"{choice}: an option comes twice, under both of its names")
    return name, options


def misnamed(choice: str) -> Iterator[str]:
    """What is wrong with a value of `--aggregator`; one sentence each.

    Args:
        choice: The text `name` or `name:key=value,...`.
    """
    try:
        name, options = parse(choice)
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


def mean(contributions: Sequence[Source], tensor: str) -> Wide | None:
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


def mean_update(
    contributions: Sequence[Source], current: Source
) -> Iterator[tuple[str, Wide]]:
    """1/N sum_i theta_i - theta, tensor by tensor, in float64.

    Holds one tensor of one contribution at a time.
    """
    for name in current.names():
        average = mean(contributions, name)
        assert average is not None  # who takes this has contributions of one shape
        yield name, average - wide(current, name)


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
    a, b = (mean(contributions, f"{linear}.{part}") for part in PAIR)
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
