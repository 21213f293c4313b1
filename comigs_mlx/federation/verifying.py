"""Whether a federation's generalists are what its contributions make.

Whoever may write to the repository may write any file of it. So whoever pulls computes
the last round again, from the contributions that lie beside it and the state that it
was closed upon, and compares. What cannot be computed again (the contributions are too
large or too many, the history was squashed, the first generalists) is compared with the
digests that the run remembers and round.json states; beyond that it is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation import adapter, aggregation, reviewing, vouching
from comigs_mlx.federation.exchange import (
    Exchange,
    Moved,
    Snapshot,
    Unreachable,
)
from comigs_mlx.federation.manifest import (
    MANIFEST,
    MANIFEST_BYTES,
    Manifest,
    Shapes,
    cap,
)
from comigs_mlx.federation.sources import (
    PAIR,
    Array,
    Arrays,
    Source,
    Wide,
    digest,
    linears,
    wide,
)
from comigs_mlx.federation.state import ROUND, ROUND_BYTES, Round

MOST_CONTRIBUTIONS, MOST_BYTES = 64, 256 * 2**20
"""Of a round that is computed again."""

MOST_REWRITES = 20
"""Changes of round.json looked through for the one that closed the round."""

NEAR, NEAR_PRODUCTS = 1e-4, 1e-3
"""Relative differences that rounding on another processor may make: of a tensor's
largest value, and of a product's length where factors are not unique (svd)."""


class Begun(FederationError):
    """A round that the history begins with: there is no state before it."""


class Unverified(FederationError):
    """The generalists are not what the round's contributions make."""


@dataclass(frozen=True)
class Have:
    """The generalists that a run has of one round."""

    round: int
    tensors: Mapping[str, Array]


@dataclass(frozen=True)
class Trust:
    """What is taken without a look.

    Attributes:
        everything: Whatever the repository holds (`--trust`).
        known: Digests of generalists that were verified or accepted before.
        have: What the run has, to compute the next round from.
    """

    everything: bool = False
    known: frozenset[str] = field(default=frozenset())
    have: Have | None = None


@dataclass(frozen=True)
class Basis:
    """What a round was closed upon.

    Attributes:
        snapshot: Has the contributions.
        manifest: Of that moment.
        round: The round before.
        start: The generalists that its contributions started from.
    """

    snapshot: Snapshot
    manifest: Manifest
    round: Round
    start: Source


def read(exchange: Exchange, snapshot: Snapshot) -> tuple[Manifest, Round]:
    """federation.json and round.json of a state that has both."""
    manifest = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    round = exchange.read(ROUND, snapshot.revision, ROUND_BYTES)
    return Manifest.from_json(manifest), Round.from_json(round)


def fetch(
    exchange: Exchange,
    revision: str,
    manifest: Manifest,
    own: Shapes | None = None,
    stated: str | None = None,
) -> dict[str, Array]:
    """Tensor -> float32 values of the generalists at a revision; see `adapter.read`.

    What a run of known shapes downloads is limited by these, not by the manifest.
    """
    most = manifest.max_bytes if own is None else min(manifest.max_bytes, cap(own))
    paths = adapter.paths(manifest)
    contents = {path: exchange.read(path, revision, most) for path in paths}
    return adapter.read(contents, manifest, own, stated)


def check(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    round: Round,
    trust: Trust,
    values: Mapping[str, Array],
) -> None:
    """Raise `Unverified` unless `values` are what the last round's contributions make.

    Args:
        exchange: Where.
        snapshot: Of it.
        manifest: Of the federation.
        round: The last closed round.
        trust: What need not be looked at.
        values: The generalists in the repository.
    """
    if trust.everything or digest(values) in trust.known:
        return
    wrong = problem(exchange, snapshot, manifest, round, trust, values)
    if wrong is not None:
        raise Unverified(
            f"the generalist of round {round.round} is refused, nothing is changed: "
            f"{wrong} ({closer(exchange, snapshot, round)}); ask the owner to restore "
            "it, or take it as it is with sync pull --trust"
        )


def closer(exchange: Exchange, snapshot: Snapshot, round: Round) -> str:
    """Who wrote the generalists, as far as that is known."""
    paths = [path for path in (adapter.ADAPTER, ROUND) if path in snapshot.files]
    found = exchange.authors(paths, snapshot.revision)
    known = next((name for name in found.values() if name is not None), None)
    if known is not None:
        return f"committed by {known}"
    stated = round.closed_by
    return "nobody knows by whom" if stated is None else f"closed by {stated}, it says"


def problem(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    round: Round,
    trust: Trust,
    values: Mapping[str, Array],
) -> str | None:
    """Why the generalists are not to be used; None: no reason is known."""
    if round.generalist not in (None, digest(values)):
        return "it is not the one that round.json states"
    if not round.contributors:
        return _strange_beginning(exchange, snapshot, round)
    try:
        basis = _basis(exchange, snapshot, manifest, round, trust)
    except Begun:
        return _strange_beginning(exchange, snapshot, round)
    except (Moved, Unreachable):
        raise
    except FederationError as error:
        return f"the state before it cannot be read: {error}"
    if isinstance(basis, str):
        return basis
    there = basis.snapshot if isinstance(basis, Basis) else snapshot
    listed = reviewing.candidates(there, round.round)
    if missing := sorted(set(round.contributors) - listed.keys()):
        return f"no contribution of {_names(missing)} is there, as round.json says"
    total = sum(sum(files.values()) for files in listed.values())
    if basis is None or len(listed) > MOST_CONTRIBUTIONS or total > MOST_BYTES:
        return None
    return _again(exchange, basis, round, values)


def _again(
    exchange: Exchange, basis: Basis, round: Round, values: Mapping[str, Array]
) -> str | None:
    """Close the round once more, and compare."""
    for name, account in basis.round.owners.items():
        if (now := round.owners.get(name)) != account:
            return f"the name {name} was {account}'s, round.json gives it to {now}"
    start = {name: basis.start.read(name) for name in basis.start.names()}
    parts = basis.snapshot, basis.manifest, basis.round, start
    with reviewing.review(exchange, *parts) as found:
        names = [source.name for source in found.accepted]
        if sorted(names) != sorted(round.contributors):
            says, fit = _names(round.contributors), _names(names)
            return f"round.json says it is of {says}, fit are those of {fit}"
        choice = basis.manifest.aggregator
        try:
            made = aggregation.combine(
                choice.name,
                found.accepted,
                basis.start,
                choice.options,
                found.limited.still,
            )
        except FederationError as error:
            return f"its contributions make none: {error}"
    products = aggregation.load(choice.name).HANDLES_RANKS
    if _same(Arrays("", made.tensors), Arrays("", values), products):
        return None
    return f"it is not the {choice.name} of its contributions"


def _basis(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    round: Round,
    trust: Trust,
) -> Basis | str | None:
    """What the round was closed upon; None: not known any more; text: what is wrong."""
    have = trust.have
    known = have is not None and have.round == round.round - 1
    mine = Arrays("", have.tensors) if known and have is not None else None
    earlier = _closed_upon(exchange, snapshot, round)
    if earlier is None:
        bare = Round(
            round=round.round - 1,
            owners=round.owners,
            aggregator=round.aggregator,
            norm=round.norm_known,
        )
        return None if mine is None else Basis(snapshot, manifest, bare, mine)
    then, was = read(exchange, earlier)
    if was.round != round.round - 1:
        return f"round.json went from {was.round} to {round.round}"
    if then != manifest and not _by_keeper(exchange, earlier):
        then = manifest
    start = Arrays("", fetch(exchange, earlier.revision, then, None, was.generalist))
    if mine is not None and not _same(mine, start, False):
        return f"it does not start from the generalist of round {was.round}"
    return Basis(earlier, then, was, start)


def _closed_upon(
    exchange: Exchange, snapshot: Snapshot, round: Round
) -> Snapshot | None:
    """The state that the last round was closed upon; None: nobody can tell any more."""
    revision = snapshot.revision
    for _ in range(MOST_REWRITES):
        earlier = exchange.before(ROUND, revision)
        if earlier is None:
            return None
        if not {ROUND, MANIFEST} <= earlier.files.keys():
            raise Begun(f"the history begins with round {round.round}")
        content = exchange.read(ROUND, earlier.revision, ROUND_BYTES)
        if Round.from_json(content).round != round.round:
            return earlier
        revision = earlier.revision
    raise FederationError(f"round.json was written {MOST_REWRITES} times since")


def _by_keeper(exchange: Exchange, snapshot: Snapshot) -> bool:
    author = exchange.authors([MANIFEST], snapshot.revision).get(MANIFEST)
    return author is None or author == vouching.keeper(exchange, snapshot)


def _strange_beginning(
    exchange: Exchange, snapshot: Snapshot, round: Round
) -> str | None:
    """Generalists that nobody contributed must be the founder's."""
    if exchange.before(ROUND, snapshot.revision) is None:
        return None  # squashed, or no history at all: nobody can tell
    owner = vouching.keeper(exchange, snapshot)
    authors = exchange.authors([adapter.ADAPTER, ROUND], snapshot.revision)
    for path, author in authors.items():
        if author is not None and owner is not None and author != owner:
            return (
                f"nobody contributed to round {round.round}, and {path} is not of "
                f"{owner}, who founded the federation"
            )
    return None


def _same(one: Source, other: Source, products: bool) -> bool:
    """Whether two generalists are the same, but for rounding on another processor."""
    names = list(one.names())
    if names != list(other.names()):
        return False
    shapes = [(one.read(name).shape, other.read(name).shape) for name in names]
    if any(mine != theirs for mine, theirs in shapes):
        return False
    if not products:
        return all(_near(wide(one, n), wide(other, n), np.max, NEAR) for n in names)
    for linear in linears(names):
        (a, b), (c, d) = (
            [wide(source, f"{linear}.{part}") for part in PAIR]
            for source in (one, other)
        )
        if not _near(a @ b, c @ d, np.linalg.norm, NEAR_PRODUCTS):
            return False
        for x, y in ((a, c), (b, d)):
            if not np.isclose(np.linalg.norm(x), np.linalg.norm(y), rtol=1e-2):
                return False
    return True


def _near(x: Wide, y: Wide, size: Callable[[Wide], Any], most: float) -> bool:
    return bool(size(np.abs(x - y)) <= most * size(np.abs(y)))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:3]) or "nobody"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
