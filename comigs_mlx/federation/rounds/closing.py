"""Ends a round: a participant that finds it due closes it, by one commit, exactly
once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate, state_file
from comigs_mlx.federation.aggregation.aggregate import State
from comigs_mlx.federation.aggregation.state_file import STATE_FILE
from comigs_mlx.federation.exchanges.base import Exchange, Moved
from comigs_mlx.federation.exchanges.retry import tries
from comigs_mlx.federation.formats import adapter, model_card
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import ROUND, Round
from comigs_mlx.federation.formats.tensor_source import (
    Array,
    Arrays,
    Source,
    digest,
    shapes,
)
from comigs_mlx.federation.rounds import aggregator_state, reviewing
from comigs_mlx.federation.rounds.attribution import PATH
from comigs_mlx.federation.rounds.repository import (
    Federation,
    answered,
    committer,
    current,
    pull,
)
from comigs_mlx.federation.rounds.reviewing import Review

KEEP_ROUNDS = 20
"""The rounds whose contributions stay in the repository; the history has all of
them.
"""


@contextlib.contextmanager
def review(
    exchange: Exchange,
    federation: Federation,
    generalists: Mapping[str, Array] | None = None,
) -> Iterator[Review]:
    """Judge the contributions to the open round; see `reviewing.review`."""
    now = pull(exchange, federation) if generalists is None else generalists
    parts = federation.snapshot, federation.manifest, federation.round
    with reviewing.review(exchange, *parts, now) as result:
        yield result


def is_due(federation: Federation, contributions: int, now: float) -> bool:
    """Tell whether a round with so many contributions may close at `now`.

    Args:
        federation: The state of the federation to act on, from `repository.current`.
        contributions: The number of contributions to the open round.
        now: The present time, in seconds since the epoch.
    """
    manifest = federation.manifest
    if contributions >= manifest.quorum:
        return True
    deadline, age = manifest.deadline_seconds, now - federation.round.closed_at
    return contributions > 0 and deadline is not None and age >= deadline


def fair(exchange: Exchange, federation: Federation, now: float) -> float:
    """Correct `now`, so that no participant's clock decides how old the last round is.

    A participant whose clock is ahead must neither close a round before its deadline
    nor, by the time that it wrote down, keep the next one open. So the exchange's own
    clock counts if there is one: it limits `now`, and dates the last round's commit.

    Args:
        exchange: The repository that the federation is in.
        federation: The state of the federation to act on, from `repository.current`.
        now: The present time by this device's clock, in seconds since the epoch.

    Returns:
        A time to compare with `round.closed_at`.
    """
    if federation.manifest.deadline_seconds is None:
        return now
    written, clock = federation.round.closed_at, exchange.clock()
    at = now if clock is None else min(now, clock)
    closed = exchange.committed(ROUND, federation.snapshot.revision)
    if closed is None:
        return at
    # A right clock wrote the time before the commit, so it is a little earlier.
    began = min(closed, at) if written > at else max(written, min(closed, at))
    return written + (at - began)


def close_if_due(
    exchange: Exchange, federation: Federation, now: float, each: int = 1
) -> Federation | None:
    """Close the open round if it is due, or find that another participant has.

    Args:
        exchange: The repository that the federation is in.
        federation: The state of the federation to act on, from `repository.current`.
        now: The present time, in seconds since the epoch.
        each: The number of participants that a contribution stands for: more than one
            where it is a mean of theirs, made by secure aggregation.

    Returns:
        The federation with the round closed; None where it is not due, or not yet
        closed after many tries because others commit all the time.
    """
    round_to_close = federation.open_round
    for _ in tries():
        if federation.round.round >= round_to_close:
            return federation
        listed = reviewing.candidates(federation.snapshot, round_to_close)
        trust = federation.trust
        with contextlib.suppress(Moved):
            at = fair(exchange, federation, now)
            if not is_due(federation, each * len(listed), at):
                return None
            generalist = _close(exchange, federation, now, each)
            if generalist is None:
                return None
            trust = dataclasses.replace(trust, known=trust.known | {generalist})
        federation = current(exchange, trust)
    return federation if federation.round.round >= round_to_close else None


def _close(
    exchange: Exchange, federation: Federation, now: float, each: int
) -> str | None:
    """Try once to close the round; return the new generalists' digest, or None if not
    due.

    Raises:
        Moved: If another commit came first.
    """
    generalists = pull(exchange, federation)
    with review(exchange, federation, generalists) as review_result:
        at = fair(exchange, federation, now)
        if not is_due(federation, each * len(review_result.accepted), at):
            return None
        changes = _closing(exchange, federation, generalists, review_result, now)
        assert (closed := changes[ROUND]) is not None
    message = f"Close round {federation.open_round}"
    with answered(exchange, {ROUND: closed}):
        exchange.commit(changes, message, federation.snapshot.revision)
    return Round.from_json(closed).generalist


def _closing(
    exchange: Exchange,
    federation: Federation,
    generalists: Mapping[str, Array],
    review_result: Review,
    now: float,
) -> dict[str, bytes | None]:
    """Make the changes of the commit that closes the open round."""
    manifest, choice = federation.manifest, federation.manifest.aggregator
    source, limited = Arrays("", generalists), review_result.limited
    parts = exchange, federation.snapshot, manifest, federation.round, source
    state = aggregator_state.read(*parts)
    combined = aggregate.combine(
        choice.name,
        review_result.accepted,
        source,
        choice.options,
        limited.still,
        state,
    )
    closed = federation.round.following(
        weights=combined.weights,
        aggregator=choice.name,
        closed_at=_bounded(exchange, now),
        contributors=[source.name for source in review_result.accepted],
        refused=review_result.refused,
        inexactness=aggregate.inexactness(review_result.accepted),
        accounts={
            s.name: a
            for s in review_result.accepted
            if (a := review_result.accounts.get(s.name))
        },
        start=digest(generalists),
        generalist=digest(combined.tensors),
        closed_by=committer(exchange),
        norm_known=limited.known,
        norm=limited.norm,
        notes=[*combined.notes, *limited.notes, *_contribution_notes(review_result)],
        state=digest(combined.state) if combined.state else None,
    )
    return {
        **_outdated(federation),
        **_state_file(federation, combined.state),
        **_checked_files(combined.tensors, manifest, source),
        ROUND: closed.to_json(),
        model_card.README: model_card.render(manifest, closed, exchange.uri),
    }


def _checked_files(
    tensors: Mapping[str, Array], manifest: Manifest, start: Source
) -> dict[str, bytes]:
    """Write the generalists' files, and check them as everybody who pulls them will.

    Raises:
        FederationError: If they do not pass, which `aggregation.combine` prevents.
    """
    files = adapter.files(tensors, manifest)
    weights = {path: files[path] for path in adapter.paths(manifest)}
    try:
        adapter.check_generalist(weights, shapes(start))
    except FederationError as error:
        raise FederationError(
            f"the round's result cannot be published ({error}): report this"
        ) from error
    return files


def _state_file(federation: Federation, state: State) -> dict[str, bytes | None]:
    """Write the aggregator's file, or remove one that an earlier aggregator left."""
    if state:
        return {STATE_FILE: state_file.to_bytes(state)}
    return {STATE_FILE: None} if STATE_FILE in federation.snapshot.files else {}


def _contribution_notes(review_result: Review) -> Iterator[str]:
    """Yield what happened to single contributions, a sentence each."""
    for name, factor in review_result.clipped.items():
        yield f"{name}: an outsized update, clipped to {factor:.2g} of its length"
    for name in sorted(review_result.limited.still):
        yield f"{name}: the generalist as it was, without training"


def _bounded(exchange: Exchange, now: float) -> float:
    """Return `now`, but no later than the exchange's own clock says."""
    clock = exchange.clock()
    return now if clock is None else min(now, clock)


def _outdated(federation: Federation) -> dict[str, None]:
    """Remove contributions that are no longer kept, so that listings stay short."""
    oldest = federation.open_round - KEEP_ROUNDS
    matches = (PATH.fullmatch(path) for path in federation.snapshot.files)
    return {match[0]: None for match in matches if match and int(match[1]) <= oldest}
