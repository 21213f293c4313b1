"""Whether a federation's generalists are what its contributions make.

Whoever may write to the repository may write any file of it. So whoever pulls computes
the last round again, from the contributions that lie beside it and the state that it
was closed upon, and compares. What cannot be computed again (the contributions are too
large or too many, the history was squashed, the first generalists) is compared with the
digests that the run remembers and round.json states; beyond that it is taken on trust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.aggregation.personal import Unmixable
from comigs_mlx.federation.aggregation.state_file import STATE_FILE
from comigs_mlx.federation.exchanges.base import Exchange, Moved, Snapshot, Unreachable
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.manifest import (
    MANIFEST,
    MANIFEST_BYTES,
    Manifest,
    Shapes,
    cap,
)
from comigs_mlx.federation.formats.round import ROUND, ROUND_BYTES, Round
from comigs_mlx.federation.formats.tensor_source import (
    PAIR,
    Array,
    Arrays,
    Source,
    Wide,
    digest,
    linears,
    wide,
)
from comigs_mlx.federation.rounds import aggregator_state, attribution, reviewing

MOST_CONTRIBUTIONS, MOST_BYTES = 64, 256 * 2**20
"""Of a round that is computed again; bytes also of all rounds since the run's own."""

MOST_BYTES_EARLIER = 32 * 2**20
"""Of the rounds before the last one, for who has none."""

MOST_REWRITES = 20
"""Changes of round.json looked through for the one that closed the round."""

NEAR, NEAR_PRODUCTS = 1e-4, 1e-3
"""Relative differences that rounding on another processor may make: of a tensor's
largest value, and of a product's length where factors are not unique (svd)."""


ACCEPT = "look at sync status; to accept it add --trust (to sync pull, merge or train)"


class Begun(FederationError):
    """A round that the history begins with: there is no state before it."""


class Unreadable(Unmixable):
    """The contributions of the last round cannot be had, or checked, any more."""


class Untrusted(FederationError):
    """Something is not taken from a repository unless somebody says `--trust`."""


class Unverified(Untrusted):
    """The generalists are not what the round's contributions make."""


@dataclass(frozen=True)
class Have:
    """The generalists that a run has of one round.

    Attributes:
        round: The number of the round.
        tensors: Tensor -> values; None where the run has not kept them (`Trust.known`
            has their digest).
    """

    round: int
    tensors: Mapping[str, Array] | None


@dataclass(frozen=True)
class Trust:
    """What is taken without a look.

    Attributes:
        everything: Whether all that the repository holds is taken as it is (`--trust`).
        known: The digests of generalists that were verified or accepted before.
        have: The generalists that the run has, to compute the next round from.
    """

    everything: bool = False
    known: frozenset[str] = field(default=frozenset())
    have: Have | None = None


@dataclass(frozen=True, eq=False)
class State:
    """A federation as one commit of its repository has it.

    Attributes:
        manifest: What its participants agree on.
        round: The last closed round.
        snapshot: The files it was read from.
    """

    manifest: Manifest
    round: Round
    snapshot: Snapshot


@dataclass(frozen=True, eq=False)
class Basis(State):
    """What a round was closed upon: its contributions, and the round before.

    Attributes:
        start: The generalists that its contributions started from.
    """

    start: Source


@dataclass(frozen=True, eq=False)
class Claim:
    """What a repository says that a round made.

    Attributes:
        round: The round as round.json describes it.
        values: The generalists that it made.
        before: The state of the aggregator that it continued from.
        after: The state of the aggregator that it left.
    """

    round: Round
    values: Source
    before: Mapping[str, Array]
    after: Mapping[str, Array]


def read(exchange: Exchange, snapshot: Snapshot) -> State:
    """The state of a snapshot that has a federation.json and a round.json."""
    manifest = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    round = exchange.read(ROUND, snapshot.revision, ROUND_BYTES)
    return State(Manifest.from_json(manifest), Round.from_json(round), snapshot)


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
    exchange: Exchange, state: State, trust: Trust, values: Mapping[str, Array]
) -> None:
    """Raise `Unverified` unless `values` are what the last round's contributions make.

    Args:
        exchange: The repository to read from.
        state: The federation's newest state.
        trust: What need not be looked at.
        values: The generalists in the repository.
    """
    if trust.everything:
        return
    if digest(values) in trust.known and not aggregator_state.keeps(state.manifest):
        return
    wrong, _ = judge(exchange, state, trust, values)
    if wrong is not None:
        raise Unverified(
            f"the generalist of round {state.round.round} is refused, nothing is "
            f"changed: {wrong} ({closer(exchange, state)}); {ACCEPT}"
        )


def closer(exchange: Exchange, state: State) -> str:
    """Who wrote the generalists of a state, as far as that is known."""
    snapshot = state.snapshot
    paths = [path for path in (adapter.ADAPTER, ROUND) if path in snapshot.files]
    found = exchange.authors(paths, snapshot.revision)
    known = next((name for name in found.values() if name is not None), None)
    if known is not None:
        return f"committed by {known}"
    stated = state.round.closed_by
    return "nobody knows by whom" if stated is None else f"closed by {stated}, it says"


def judge(
    exchange: Exchange, state: State, trust: Trust, values: Mapping[str, Array]
) -> tuple[str | None, bool]:
    """Why the generalists are not to be used, and whether any round was computed again.

    From the last round back to one that is known already, as far as the limits allow:
    of two forged rounds the second is an honest step from the first.

    Returns:
        None instead of a reason where no reason is known.
    """
    left, again, last = MOST_BYTES, False, state.round.round
    known = digest(values) in trust.known
    while True:
        wrong, basis, size = _step(exchange, state, trust, values)
        if wrong is not None:
            number = state.round.round
            before = "" if number == last else f"round {number} before it: "
            return before + wrong, again or basis is not None
        if basis is None:
            return None, again
        state, values = basis, _read(basis.start)
        left = (left if again or trust.known else MOST_BYTES_EARLIER) - size
        again = True
        later, known = known, digest(values) in trust.known
        # What an aggregator remembers is in no digest that a run knows. But known
        # generalists are made from the state before them, so that computing their
        # round again proves both states.
        if left <= 0 or (later if aggregator_state.keeps(state.manifest) else known):
            return None, True


def _step(
    exchange: Exchange, state: State, trust: Trust, values: Mapping[str, Array]
) -> tuple[str | None, Basis | None, int]:
    """What is wrong with one round, what it was closed upon, bytes of contributions."""
    round = state.round
    if round.generalist not in (None, digest(values)):
        return "it is not the one that round.json states", None, 0
    if not round.contributors:
        return _strange_beginning(exchange, state), None, 0
    try:
        basis = _basis(exchange, state, trust)
    except Begun:
        return _strange_beginning(exchange, state), None, 0
    except (Moved, Unreachable):
        raise
    except FederationError as error:
        return f"the state before it cannot be read: {error}", None, 0
    if isinstance(basis, str):
        return basis, None, 0
    there: State = state if basis is None else basis
    listed = reviewing.candidates(there.snapshot, round.round)
    if missing := sorted(set(round.contributors) - listed.keys()):
        names = _names(missing)
        return f"no contribution of {names} is there, as round.json says", None, 0
    total = sum(sum(files.values()) for files in listed.values())
    if basis is None or len(listed) > MOST_CONTRIBUTIONS or total > MOST_BYTES:
        return None, None, total
    try:
        claim = _claim(exchange, state, basis, values)
    except (Moved, Unreachable):
        raise
    except FederationError as error:
        return str(error), None, 0
    return _again(exchange, basis, claim), basis, total


def _claim(
    exchange: Exchange, state: State, basis: Basis, values: Mapping[str, Array]
) -> Claim:
    parts = basis.snapshot, basis.manifest, basis.round, basis.start
    before = aggregator_state.read(exchange, *parts)
    made = Arrays("", values)
    now = state.snapshot, basis.manifest, state.round, made
    return Claim(state.round, made, before, aggregator_state.read(exchange, *now))


def _again(exchange: Exchange, basis: Basis, claim: Claim) -> str | None:
    """Close the round once more, and compare."""
    round = claim.round
    for name, account in basis.round.owners.items():
        if (now := round.owners.get(name)) != account:
            return f"the name {name} was {account}'s, round.json gives it to {now}"
    wrong = None
    for snapshot in _listings(basis, round):
        wrong, names = _compared(exchange, basis, snapshot, claim)
        if names == sorted(round.contributors):
            break
    return wrong


@contextlib.contextmanager
def contributions(
    exchange: Exchange, state: State, trust: Trust
) -> Iterator[tuple[list[Source], Source]]:
    """The contributions that the last round was made of, for the time of a block.

    They pass the checks of the closing once more; outsized updates are clipped as they
    were then. The block gets them with the generalists that they started from.

    Args:
        exchange: The repository to read from.
        state: The federation's newest state.
        trust: What need not be looked at; what the run has may be the start.

    Raises:
        Unreadable: If there are none, or they cannot be checked any more.
        Moved: If the exchange keeps no history and has changed since.
        Unreachable: If the repository cannot be reached.
    """
    round = state.round
    if not round.contributors:
        raise Unreadable(f"round {round.round} has no contributions")
    basis = _known_basis(exchange, state, trust)
    for snapshot in _listings(basis, round):
        with _reviewed(exchange, basis, snapshot) as found:
            if _accepted(found) == sorted(round.contributors):
                yield found.accepted, basis.start
                return
    raise Unreadable(
        f"the contributions to round {round.round} are not, or not all, in the "
        "repository any more"
    )


def _known_basis(exchange: Exchange, state: State, trust: Trust) -> Basis:
    """What the last round was closed upon.

    Raises:
        Unreadable: If nobody can tell any more.
    """
    number = state.round.round
    try:
        basis = _basis(exchange, state, trust)
    except (Moved, Unreachable):
        raise
    except FederationError as error:
        basis = f"the state before it cannot be read: {error}"
    if isinstance(basis, str):
        raise Unreadable(f"round {number}: {basis}")
    if basis is None:
        raise Unreadable(
            f"what the contributions to round {number} started from is not in the "
            f"repository any more, and this run did not have round {number - 1}"
        )
    return basis


def _listings(basis: Basis, round: Round) -> Iterator[Snapshot]:
    """The states to look for the contributions of a round in.

    First all of them: those that are too long decide who else is. Whoever closed the
    round may have been stricter, and says so; the one who was refused is told.
    """
    yield basis.snapshot
    stricter = _without(basis.snapshot, round.round, round.refused)
    if stricter != basis.snapshot:
        yield stricter


def _without(snapshot: Snapshot, round: int, names: Collection[str]) -> Snapshot:
    """The state without what some participants contributed to a round."""
    folders = tuple(f"{attribution.FOLDER}/{round}/{name}/" for name in names)
    files = {p: f for p, f in snapshot.files.items() if not p.startswith(folders)}
    return Snapshot(snapshot.revision, files)


def _compared(
    exchange: Exchange,
    basis: Basis,
    snapshot: Snapshot,
    claim: Claim,
) -> tuple[str | None, list[str]]:
    """What is wrong with a round of the contributions in `snapshot`; those that fit."""
    round, choice = claim.round, basis.manifest.aggregator
    with _reviewed(exchange, basis, snapshot) as found:
        names = _accepted(found)
        if names != sorted(round.contributors):
            says, fit = _names(round.contributors), _names(names)
            return f"round.json says it is of {says}, fit are those of {fit}", names
        try:
            made = aggregate.combine(
                choice.name,
                found.accepted,
                basis.start,
                choice.options,
                found.limited.still,
                claim.before,
            )
        except FederationError as error:
            return f"its contributions make none: {error}", names
    products = aggregate.load(choice.name).HANDLES_RANKS
    if not _same(Arrays("", made.tensors), claim.values, products):
        return f"it is not the {choice.name} of its contributions", names
    if not _same(Arrays("", made.state), Arrays("", claim.after), False):
        return f"{STATE_FILE} is not what {choice.name} makes of the round", names
    return None, names


def _reviewed(
    exchange: Exchange, basis: Basis, snapshot: Snapshot
) -> contextlib.AbstractContextManager[reviewing.Review]:
    """The contributions in `snapshot` to the round after a basis, judged once more."""
    parts = snapshot, basis.manifest, basis.round, _read(basis.start)
    return reviewing.review(exchange, *parts)


def _accepted(found: reviewing.Review) -> list[str]:
    return sorted(source.name for source in found.accepted)


def _basis(exchange: Exchange, state: State, trust: Trust) -> Basis | str | None:
    """What the round was closed upon; None: not known any more; text: what is wrong."""
    round, have = state.round, trust.have
    if have is None or have.round != round.round - 1:
        have = None
    mine = None if have is None or not have.tensors else Arrays("", have.tensors)
    earlier = _closed_upon(exchange, state)
    if earlier is None:
        if not _by_manifest_owner(exchange, state.snapshot):
            return None  # squashed by somebody: whose a contribution was is lost
        bare = Round(
            round=round.round - 1,
            owners=round.owners,
            aggregator=round.aggregator,
            norm=round.norm_known,
        )
        if mine is None or aggregator_state.keeps(state.manifest):
            return None
        return Basis(state.manifest, bare, state.snapshot, mine)
    there = read(exchange, earlier)
    then, was = there.manifest, there.round
    if was.round != round.round - 1:
        return f"round.json went from {was.round} to {round.round}"
    if then != state.manifest and not _by_manifest_owner(exchange, earlier):
        then = state.manifest
    start = Arrays("", fetch(exchange, earlier.revision, then, None, was.generalist))
    if have is not None and not (
        digest(_read(start)) in trust.known or (mine and _same(mine, start, False))
    ):
        return f"it does not start from the generalist of round {was.round}"
    return Basis(then, was, earlier, start)


def _closed_upon(exchange: Exchange, state: State) -> Snapshot | None:
    """The state that the last round was closed upon; None: nobody can tell any more."""
    number, revision = state.round.round, state.snapshot.revision
    for _ in range(MOST_REWRITES):
        earlier = exchange.before(ROUND, revision)
        if earlier is None:
            return None
        if not {ROUND, MANIFEST} <= earlier.files.keys():
            raise Begun(f"the history begins with round {number}")
        content = exchange.read(ROUND, earlier.revision, ROUND_BYTES)
        if Round.from_json(content).round != number:
            return earlier
        revision = earlier.revision
    raise FederationError(f"round.json was written {MOST_REWRITES} times since")


def _read(source: Source) -> dict[str, Array]:
    return {name: source.read(name) for name in source.names()}


def _by_manifest_owner(exchange: Exchange, snapshot: Snapshot) -> bool:
    author = exchange.authors([MANIFEST], snapshot.revision).get(MANIFEST)
    return author is None or author == attribution.manifest_owner(exchange, snapshot)


def _strange_beginning(exchange: Exchange, state: State) -> str | None:
    """Generalists that nobody contributed must be the founder's."""
    snapshot = state.snapshot
    if exchange.before(ROUND, snapshot.revision) is None:
        return None  # squashed, or no history at all: nobody can tell
    owner = attribution.manifest_owner(exchange, snapshot)
    authors = exchange.authors([adapter.ADAPTER, ROUND], snapshot.revision)
    for path, author in authors.items():
        if author is not None and owner is not None and author != owner:
            return (
                f"nobody contributed to round {state.round.round}, and {path} is not "
                f"of {owner}, who founded the federation"
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
