"""A contribution's way into the open round."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.exchanges.base import Exchange, Moved
from comigs_mlx.federation.formats.contribution import CONTRIBUTION, Prepared
from comigs_mlx.federation.formats.round import ROUND, ROUND_BYTES, Round
from comigs_mlx.federation.rounds import attribution
from comigs_mlx.federation.rounds.attribution import FOLDER
from comigs_mlx.federation.rounds.repository import (
    Federation,
    answered,
    current,
    is_there,
)


class Late(FederationError):
    """The round that a contribution is for is not open."""


def check_participant(exchange: Exchange, federation: Federation, name: str) -> None:
    """Raise `FederationError` if this account may not contribute under `name`.

    The same where the round could not be closed, because this version does not have
    the federation's aggregator.
    """
    manifest = federation.manifest
    aggregate.check(manifest.aggregator.name, manifest.aggregator.options)
    allowed = manifest.participants
    if allowed is not None and name not in allowed:
        raise FederationError(
            f"{name} is not among the participants of {exchange.uri}: ask its owner, "
            "or check --participant"
        )
    taken = holders(exchange, federation, name)
    if name not in taken and allowed is None:
        return
    account = exchange.account()
    if account is not None and attribution.check_author(
        exchange, name, account, manifest, taken
    ):
        raise FederationError(
            f"the name {name} belongs to another account than {account}: choose "
            "another --participant"
        )


def holders(exchange: Exchange, federation: Federation, name: str) -> Mapping[str, str]:
    """Participant -> account, of all earlier rounds and, for `name`, of this one."""
    owners, snapshot = federation.round.owners, federation.snapshot
    path = f"{FOLDER}/{federation.open_round}/{name}/{CONTRIBUTION}"
    if name in owners or path not in snapshot.files:
        return owners
    account = attribution.accounts(exchange, snapshot, [path]).get(path)
    owner = attribution.owner_of(exchange, snapshot, path, account)
    return owners if owner is None else {**owners, name: owner}


def contribute(exchange: Exchange, federation: Federation, prepared: Prepared) -> bool:
    """Put a contribution into the open round, by one commit without a lock.

    An older one of the same participant in this round is replaced.

    Args:
        exchange: The repository to commit to.
        federation: The state of the federation to act on, from `repository.current`.
        prepared: The contribution to send, from `contribution.prepare`.

    Returns:
        Whether anything was committed; False where the same is there already.

    Raises:
        Late: If its round is not open (any more).
        FederationError: If the name is not this account's.
    """
    changes, new = _admitted(exchange, federation, prepared)
    name, round = prepared.metadata.participant, prepared.metadata.round
    if len(new) == len(changes) and is_there(exchange, federation.snapshot, new):
        if _counts(exchange, federation, name, new):
            return False
        # The same bytes change nothing, and stay another account's.
        exchange.commit(dict.fromkeys(new), f"{_title(prepared)}, once more")
    revision = None
    with answered(exchange, new):
        revision = exchange.commit(changes, _title(prepared))
    then = _round_at(exchange, revision)
    closed = {one.round: one.contributors for one in then.history}
    if name not in closed.get(round, ()):  # others may have closed more than this one
        _check_open(then.round + 1, round)
    return True


def _round_at(exchange: Exchange, revision: str | None) -> Round:
    """The last closed round of the very state that a commit made.

    The newest state would do too, but for an exchange whose answers about it lag.
    """
    if revision is not None:
        with contextlib.suppress(Moved):  # a folder keeps no history, nor does it lag
            return Round.from_json(exchange.read(ROUND, revision, ROUND_BYTES))
    return current(exchange).round


def _counts(
    exchange: Exchange, federation: Federation, name: str, paths: Iterable[str]
) -> bool:
    """Whether files that are there count for who may use the name.

    They do not where somebody has squashed the history, or committed them again.
    """
    snapshot, manifest = federation.snapshot, federation.manifest
    taken = holders(exchange, federation, name)
    accounts = attribution.accounts(exchange, snapshot, paths)
    return not any(
        attribution.check_author(exchange, name, account, manifest, taken)
        for account in accounts.values()
    )


def propose(
    exchange: Exchange, federation: Federation, prepared: Prepared
) -> tuple[str, bool]:
    """Offer a contribution to whoever may write; the same one is offered once.

    Args:
        exchange: The repository to commit to.
        federation: The state of the federation to act on, from `repository.current`.
        prepared: The contribution to send, from `contribution.prepare`.

    Returns:
        Where to look at it, and whether it is new.

    Raises:
        Late: If its round is not open (any more).
        FederationError: If the name is not this account's.
    """
    changes, new = _admitted(exchange, federation, prepared)
    if is_there(exchange, federation.snapshot, new):
        return exchange.url(), False
    account = exchange.account()
    for proposal in exchange.proposals():
        if account is not None and proposal.author == account:
            offered, _ = exchange.proposed(proposal.number)
            if is_there(exchange, offered, new):
                return proposal.url, False
    return exchange.propose(changes, _title(prepared)), True


def _admitted(
    exchange: Exchange, federation: Federation, prepared: Prepared
) -> tuple[dict[str, bytes | None], dict[str, bytes]]:
    """All that a contribution changes and what of it is new, if it may come in."""
    _check_open(federation.open_round, prepared.metadata.round)
    check_participant(exchange, federation, prepared.metadata.participant)
    changes = contribution_changes(federation, prepared.by(exchange.account()))
    new = {path: content for path, content in changes.items() if content is not None}
    return changes, new


def _title(prepared: Prepared) -> str:
    """The line that a contribution has in the history."""
    metadata = prepared.metadata
    return f"Contribute to round {metadata.round}: {metadata.participant}"


def contribution_changes(
    federation: Federation, prepared: Prepared
) -> dict[str, bytes | None]:
    """What a contribution changes in the repository, and all that leaves the device."""
    folder = f"{FOLDER}/{prepared.metadata.round}/{prepared.metadata.participant}/"
    old = [path for path in federation.snapshot.files if path.startswith(folder)]
    new = {folder + file: content for file, content in prepared.files().items()}
    return {**{path: None for path in old if path not in new}, **new}


def _check_open(now: int, round: int) -> None:
    if round != now:
        raise Late(
            f"round {round} is {'closed' if round < now else 'not open yet'}, round "
            f"{now} is open: python -m comigs_mlx.sync pull, train, then push again"
        )
