"""Puts a contribution into the open round."""

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
    """The error of a contribution whose round is not open."""


def check_participant(exchange: Exchange, federation: Federation, name: str) -> None:
    """Raise `FederationError` if this account may not contribute under `name`.

    It also raises if the round could not be closed, because this version does not have
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
    owners = holders(exchange, federation, name)
    if name not in owners and allowed is None:
        return
    account = exchange.account()
    if account is not None and attribution.check_author(
        exchange, name, account, manifest, owners
    ):
        raise FederationError(
            f"the name {name} belongs to another account than {account}: choose "
            "another --participant"
        )


def holders(exchange: Exchange, federation: Federation, name: str) -> Mapping[str, str]:
    """Return the account of each name in earlier rounds and, for `name`, in this
    one.
    """
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
        True if anything was committed; False where the same contribution is there
        already.

    Raises:
        Late: If its round is not open, or not any more.
        FederationError: If the name belongs to another account.
    """
    changes, new = _admitted(exchange, federation, prepared)
    name, round = prepared.metadata.participant, prepared.metadata.round
    if len(new) == len(changes) and is_there(exchange, federation.snapshot, new):
        if _counts(exchange, federation, name, new):
            return False
        # A commit of the same bytes changes nothing, so they would stay another
        # account's: they are deleted first.
        exchange.commit(dict.fromkeys(new), f"{_title(prepared)}, once more")
    revision = None
    with answered(exchange, new):
        revision = exchange.commit(changes, _title(prepared))
    after = _round_at(exchange, revision)
    closed = {record.round: record.contributors for record in after.history}
    if name not in closed.get(round, ()):  # others may have closed more than this one
        _check_open(after.round + 1, round)
    return True


def _round_at(exchange: Exchange, revision: str | None) -> Round:
    """Return the last closed round of the state that a commit made.

    The newest state would do too, if no exchange answered with one that is out of date.
    """
    if revision is not None:
        with contextlib.suppress(Moved):  # a folder keeps no history, nor does it lag
            return Round.from_json(exchange.read(ROUND, revision, ROUND_BYTES))
    return current(exchange).round


def _counts(
    exchange: Exchange, federation: Federation, name: str, paths: Iterable[str]
) -> bool:
    """Tell whether files that are there count for the account that may use the name.

    They do not if another account has squashed the history, or committed them again.
    """
    snapshot, manifest = federation.snapshot, federation.manifest
    owners = holders(exchange, federation, name)
    accounts = attribution.accounts(exchange, snapshot, paths)
    return not any(
        attribution.check_author(exchange, name, account, manifest, owners)
        for account in accounts.values()
    )


def propose(
    exchange: Exchange, federation: Federation, prepared: Prepared
) -> tuple[str, bool]:
    """Offer a contribution to the accounts that may write; it is offered only once.

    Args:
        exchange: The repository to commit to.
        federation: The state of the federation to act on, from `repository.current`.
        prepared: The contribution to send, from `contribution.prepare`.

    Returns:
        The address of the proposal, and whether it is new.

    Raises:
        Late: If its round is not open, or not any more.
        FederationError: If the name belongs to another account.
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
    """Check that a contribution may come in; return all its changes, and the new
    files.
    """
    _check_open(federation.open_round, prepared.metadata.round)
    check_participant(exchange, federation, prepared.metadata.participant)
    changes = contribution_changes(federation, prepared.by(exchange.account()))
    new = {path: content for path, content in changes.items() if content is not None}
    return changes, new


def _title(prepared: Prepared) -> str:
    """Write the line that a contribution has in the history."""
    metadata = prepared.metadata
    return f"Contribute to round {metadata.round}: {metadata.participant}"


def contribution_changes(
    federation: Federation, prepared: Prepared
) -> dict[str, bytes | None]:
    """Return what a contribution changes in the repository: all that leaves the
    device.
    """
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
