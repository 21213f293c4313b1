"""Verifies that a federation's generalists are what its contributions make.

An account that may write to the repository may write any file of it. So each run that
pulls computes the last round again, from the contributions in the repository and the
state before the round, and compares. Some rounds cannot be computed again: the
contributions are too large or too many, the history was squashed, or they made the
first generalists. These are compared with the digests that the run remembers and
round.json states; beyond that they are taken on trust.
"""

from __future__ import annotations

import contextlib
import math
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
"""The most that a round may have to be computed again; bytes also of all such
rounds.
"""

MOST_BYTES_EARLIER = 32 * 2**20
"""The most bytes of the rounds before the last one, for a run without a known round."""

MOST_REWRITES = 20
"""The most changes of round.json that are searched for the one that closed the
round.
"""

NEAR, NEAR_PRODUCTS = 1e-4, 1e-3
"""Relative differences that rounding on another processor may make: of a tensor's
largest value, and of a product's length where factors are not unique (svd)."""


ACCEPT = "look at sync status; to accept it add --trust (to sync pull, merge or train)"


class NoStateBefore(FederationError):
    """The error for a round that the history begins with: no state is before it."""


class Unreadable(Unmixable):
    """The contributions of the last round cannot be had, or checked, any more."""


class Untrusted(FederationError):
    """The error for what is taken from a repository only with `--trust`."""


class Unverified(Untrusted):
    """The error for generalists that the round's contributions do not make."""


@dataclass(frozen=True)
class Have:
    """The generalists that a run has of one round.

    Attributes:
        round: The number of the round.
        tensors: The values of each tensor; None where the run has not kept them
            (`Trust.known` has their digest).
    """

    round: int
    tensors: Mapping[str, Array] | None


@dataclass(frozen=True)
class Trust:
    """The things that a run takes from a repository without verification.

    Attributes:
        everything: Whether all that the repository holds is taken as it is (`--trust`).
        known: The digests of generalists that were verified or accepted before.
        have: The generalists that the run has, to compute the next round from.
    """

    everything: bool = False
    known: frozenset[str] = field(default=frozenset())
    have: Have | None = None


@dataclass(frozen=True, eq=False)
class FederationState:
    """The federation in one commit of its repository.

    Attributes:
        manifest: The manifest, which the participants agree on.
        round: The last closed round.
        snapshot: The files that it was read from.
    """

    manifest: Manifest
    round: Round
    snapshot: Snapshot


@dataclass(frozen=True, eq=False)
class RoundBasis(FederationState):
    """The state that a round was closed upon: its contributions, and the round before.

    Attributes:
        start: The generalists that its contributions started from.
    """

    start: Source


@dataclass(frozen=True, eq=False)
class Claim:
    """The result of a round as a repository states it.

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


def read(exchange: Exchange, snapshot: Snapshot) -> FederationState:
    """Read the state of a snapshot that has a federation.json and a round.json."""
    manifest = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    round = exchange.read(ROUND, snapshot.revision, ROUND_BYTES)
    return FederationState(
        Manifest.from_json(manifest), Round.from_json(round), snapshot
    )


def fetch(
    exchange: Exchange,
    revision: str,
    manifest: Manifest,
    own: Shapes | None = None,
    stated: str | None = None,
) -> dict[str, Array]:
    """Read the generalists at a revision, float32 values by tensor; see `adapter.read`.

    If the run's shapes are known, they limit the download, not the manifest.
    """
    most = manifest.max_bytes if own is None else min(manifest.max_bytes, cap(own))
    paths = adapter.paths(manifest)
    contents = {path: exchange.read(path, revision, most) for path in paths}
    return adapter.read(contents, manifest, own, stated)


def check(
    exchange: Exchange,
    state: FederationState,
    trust: Trust,
    values: Mapping[str, Array],
) -> None:
    """Raise `Unverified` unless `values` are what the last round's contributions make.

    Args:
        exchange: The repository to read from.
        state: The federation's newest state.
        trust: The trust of the run: what need not be verified.
        values: The generalists in the repository.
    """
    if trust.everything:
        return
    if digest(values) in trust.known and not aggregator_state.keeps(state.manifest):
        return
    problem, _ = judge(exchange, state, trust, values)
    if problem is not None:
        raise Unverified(
            f"the generalist of round {state.round.round} is refused, nothing is "
            f"changed: {problem} ({closer(exchange, state)}); {ACCEPT}"
        )


def closer(exchange: Exchange, state: FederationState) -> str:
    """Tell which account wrote the generalists of a state, as far as that is known."""
    snapshot = state.snapshot
    paths = [path for path in (adapter.ADAPTER, ROUND) if path in snapshot.files]
    authors = exchange.authors(paths, snapshot.revision)
    author = next((name for name in authors.values() if name is not None), None)
    if author is not None:
        return f"committed by {author}"
    stated = state.round.closed_by
    return "nobody knows by whom" if stated is None else f"closed by {stated}, it says"


def judge(
    exchange: Exchange,
    state: FederationState,
    trust: Trust,
    values: Mapping[str, Array],
) -> tuple[str | None, bool]:
    """Tell why the generalists must not be used, and whether a round was computed
    again.

    It goes from the last round back to one that is known already, as far as the limits
    allow: of two forged rounds, the second may be an honest step from the first.

    Returns:
        The reason, or None if there is none; and whether a round was computed again.
    """
    bytes_left, computed_again, last_round = MOST_BYTES, False, state.round.round
    is_known = digest(values) in trust.known
    while True:
        problem, basis, size = _step(exchange, state, trust, values)
        if problem is not None:
            number = state.round.round
            before = "" if number == last_round else f"round {number} before it: "
            return before + problem, computed_again or basis is not None
        if basis is None:
            return None, computed_again
        state, values = basis, _read(basis.start)
        bytes_left = (
            bytes_left if computed_again or trust.known else MOST_BYTES_EARLIER
        ) - size
        computed_again = True
        later_is_known, is_known = is_known, digest(values) in trust.known
        # What an aggregator remembers is in no digest that a run knows. But known
        # generalists are made from the state before them, so that computing their
        # round again proves both states.
        if bytes_left <= 0 or (
            later_is_known if aggregator_state.keeps(state.manifest) else is_known
        ):
            return None, True


def _step(
    exchange: Exchange,
    state: FederationState,
    trust: Trust,
    values: Mapping[str, Array],
) -> tuple[str | None, RoundBasis | None, int]:
    """Return a round's problem, the state it was closed upon, and its
    contributions' bytes.
    """
    round = state.round
    if round.generalist not in (None, digest(values)):
        return "it is not the one that round.json states", None, 0
    if not round.contributors:
        return _strange_beginning(exchange, state), None, 0
    try:
        basis = _basis(exchange, state, trust)
    except NoStateBefore:
        return _strange_beginning(exchange, state), None, 0
    except (Moved, Unreachable):
        raise
    except FederationError as error:
        return f"the state before it cannot be read: {error}", None, 0
    if isinstance(basis, str):
        return basis, None, 0
    listed_state: FederationState = state if basis is None else basis
    listed = reviewing.candidates(listed_state.snapshot, round.round)
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
    return _recompute(exchange, basis, claim), basis, total


def _claim(
    exchange: Exchange,
    state: FederationState,
    basis: RoundBasis,
    values: Mapping[str, Array],
) -> Claim:
    parts = basis.snapshot, basis.manifest, basis.round, basis.start
    before = aggregator_state.read(exchange, *parts)
    source = Arrays("", values)
    now = state.snapshot, basis.manifest, state.round, source
    return Claim(state.round, source, before, aggregator_state.read(exchange, *now))


def _recompute(exchange: Exchange, basis: RoundBasis, claim: Claim) -> str | None:
    """Compute the round again, and compare."""
    round = claim.round
    for name, account in basis.round.owners.items():
        if (now := round.owners.get(name)) != account:
            return f"the name {name} was {account}'s, round.json gives it to {now}"
    problem = None
    for snapshot in _listings(basis, round):
        problem, names = _compared(exchange, basis, snapshot, claim)
        if names == sorted(round.contributors):
            break
    return problem


@contextlib.contextmanager
def contributions(
    exchange: Exchange, state: FederationState, trust: Trust
) -> Iterator[tuple[list[Source], Source]]:
    """Give the contributions that the last round was made of, for the time of a block.

    They pass the checks of the closing once more; outsized updates are clipped as they
    were then. The block gets them with the generalists that they started from.

    Args:
        exchange: The repository to read from.
        state: The federation's newest state.
        trust: The trust of the run; what it has may be the start of the round.

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


def _known_basis(
    exchange: Exchange, state: FederationState, trust: Trust
) -> RoundBasis:
    """Return the state that the last round was closed upon.

    Raises:
        Unreadable: If that state is lost.
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


def _listings(basis: RoundBasis, round: Round) -> Iterator[Snapshot]:
    """Yield the states to look for the contributions of a round in.

    All contributions come first: too long updates decide which others are too long. The
    account that closed the round may have refused more, which round.json states.
    """
    yield basis.snapshot
    stricter = _without(basis.snapshot, round.round, round.refused)
    if stricter != basis.snapshot:
        yield stricter


def _without(snapshot: Snapshot, round: int, names: Collection[str]) -> Snapshot:
    """Leave out what some participants contributed to a round."""
    folders = tuple(f"{attribution.FOLDER}/{round}/{name}/" for name in names)
    files = {p: f for p, f in snapshot.files.items() if not p.startswith(folders)}
    return Snapshot(snapshot.revision, files)


def _compared(
    exchange: Exchange,
    basis: RoundBasis,
    snapshot: Snapshot,
    claim: Claim,
) -> tuple[str | None, list[str]]:
    """Return the problem of a round of the contributions in `snapshot`, and who
    passed.
    """
    round, choice = claim.round, basis.manifest.aggregator
    with _reviewed(exchange, basis, snapshot) as result:
        names = _accepted(result)
        if names != sorted(round.contributors):
            stated, passed = _names(round.contributors), _names(names)
            return (
                f"round.json says it is of {stated}, fit are those of {passed}",
                names,
            )
        try:
            combined = aggregate.combine(
                choice.name,
                result.accepted,
                basis.start,
                choice.options,
                result.limited.still,
                claim.before,
            )
        except FederationError as error:
            return f"its contributions make none: {error}", names
    products = aggregate.load(choice.name).HANDLES_RANKS
    if not _nearly_equal(Arrays("", combined.tensors), claim.values, products):
        return f"it is not the {choice.name} of its contributions", names
    if not _nearly_equal(Arrays("", combined.state), Arrays("", claim.after), False):
        return f"{STATE_FILE} is not what {choice.name} makes of the round", names
    if not _same_length(round.norm, result.limited.norm):
        return "round.json states another length of its updates", names
    return None, names


def _reviewed(
    exchange: Exchange, basis: RoundBasis, snapshot: Snapshot
) -> contextlib.AbstractContextManager[reviewing.Review]:
    """Judge the contributions in `snapshot` to the round after a basis once more."""
    parts = snapshot, basis.manifest, basis.round, _read(basis.start)
    return reviewing.review(exchange, *parts)


def _accepted(result: reviewing.Review) -> list[str]:
    return sorted(source.name for source in result.accepted)


def _basis(
    exchange: Exchange, state: FederationState, trust: Trust
) -> RoundBasis | str | None:
    """Return the state the round was closed upon; None if it is lost, or text for a
    problem.
    """
    round, have = state.round, trust.have
    if have is None or have.round != round.round - 1:
        have = None
    own = None if have is None or not have.tensors else Arrays("", have.tensors)
    earlier = _closed_upon(exchange, state)
    if earlier is None:
        if not _by_manifest_owner(exchange, state.snapshot):
            # Another account squashed the history: the contributors' accounts are lost.
            return None
        bare = Round(
            round=round.round - 1,
            owners=round.owners,
            aggregator=round.aggregator,
            norm=round.norm_known,
        )
        if own is None or aggregator_state.keeps(state.manifest):
            return None
        return RoundBasis(state.manifest, bare, state.snapshot, own)
    state_before = read(exchange, earlier)
    manifest, round_before = state_before.manifest, state_before.round
    if round_before.round != round.round - 1:
        return f"round.json went from {round_before.round} to {round.round}"
    if manifest != state.manifest and not _by_manifest_owner(exchange, earlier):
        manifest = state.manifest
    start = Arrays(
        "", fetch(exchange, earlier.revision, manifest, None, round_before.generalist)
    )
    if have is not None and not (
        digest(_read(start)) in trust.known
        or (own and _nearly_equal(own, start, False))
    ):
        return f"it does not start from the generalist of round {round_before.round}"
    return RoundBasis(manifest, round_before, earlier, start)


def _closed_upon(exchange: Exchange, state: FederationState) -> Snapshot | None:
    """Return the state that the last round was closed upon; None if it is lost."""
    number, revision = state.round.round, state.snapshot.revision
    for _ in range(MOST_REWRITES):
        earlier = exchange.before(ROUND, revision)
        if earlier is None:
            return None
        if not {ROUND, MANIFEST} <= earlier.files.keys():
            raise NoStateBefore(f"the history begins with round {number}")
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


def _strange_beginning(exchange: Exchange, state: FederationState) -> str | None:
    """Check that generalists without contributions are the founder's."""
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


def _nearly_equal(left: Source, right: Source, products: bool) -> bool:
    """Tell whether two generalists are equal but for rounding on another processor."""
    names = list(left.names())
    if names != list(right.names()):
        return False
    shapes = [(left.read(name).shape, right.read(name).shape) for name in names]
    if any(left_shape != right_shape for left_shape, right_shape in shapes):
        return False
    if not products:
        return all(_near(wide(left, n), wide(right, n), np.max, NEAR) for n in names)
    for linear in linears(names):
        (a, b), (c, d) = (
            [wide(source, f"{linear}.{part}") for part in PAIR]
            for source in (left, right)
        )
        if not _near(a @ b, c @ d, np.linalg.norm, NEAR_PRODUCTS):
            return False
        for x, y in ((a, c), (b, d)):
            if not np.isclose(np.linalg.norm(x), np.linalg.norm(y), rtol=1e-2):
                return False
    return True


def _same_length(stated: float | None, found: float | None) -> bool:
    """Tell whether the length that the next round's updates are held to is right."""
    if stated is None or found is None:
        return stated is found
    return math.isclose(stated, found, rel_tol=NEAR_PRODUCTS)


def _near(x: Wide, y: Wide, size: Callable[[Wide], Any], most: float) -> bool:
    return bool(size(np.abs(x - y)) <= most * size(np.abs(y)))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:3]) or "nobody"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
