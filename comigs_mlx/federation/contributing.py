"""A contribution's way into the open round."""

from __future__ import annotations

from comigs_mlx.errors import FederationError
from comigs_mlx.federation import checks, reviewing
from comigs_mlx.federation.contribution import CONTRIBUTION, Prepared
from comigs_mlx.federation.exchange import Exchange
from comigs_mlx.federation.reviewing import FOLDER
from comigs_mlx.federation.rounds import Federation, answered, current, is_there


def check_participant(exchange: Exchange, federation: Federation, name: str) -> None:
    """Raise `FederationError` if this account may not contribute under `name`."""
    manifest, snapshot = federation.manifest, federation.snapshot
    allowed = manifest.participants
    if allowed is not None and name not in allowed:
        raise FederationError(
            f"{name} is not among the participants of {exchange.uri}: ask its owner, "
            "or check --participant"
        )
    taken = reviewing.owners(exchange, snapshot, federation.round)
    mine = f"{FOLDER}/{federation.open_round}/{name}/{CONTRIBUTION}"
    if name not in taken and mine in snapshot.files:
        author = exchange.authors([mine], snapshot.revision).get(mine)
        taken |= {} if author is None else {name: author}
    if name not in taken and allowed is None:
        return
    account = exchange.account()
    if account is not None and checks.check_author(name, account, manifest, taken):
        raise FederationError(
            f"the name {name} belongs to another account than {account}: choose "
            "another --participant"
        )


def contribute(exchange: Exchange, federation: Federation, prepared: Prepared) -> bool:
    """Put a contribution into the open round, by one commit without a lock.

    An older one of the same participant in this round is replaced.

    Args:
        exchange: Where to.
        federation: From `current`.
        prepared: From `contribution.prepare`.

    Returns:
        Whether anything was committed; False where the same is there already.

    Raises:
        FederationError: If its round is not open (any more), or the name is not this
            account's.
    """
    name, round = prepared.metadata.participant, prepared.metadata.round
    _check_open(federation, round)
    check_participant(exchange, federation, name)
    changes = contribution_changes(federation, prepared)
    new = {path: content for path, content in changes.items() if content is not None}
    if len(new) == len(changes) and is_there(exchange, federation.snapshot, new):
        return False
    with answered(exchange, new):
        exchange.commit(changes, f"Contribute to round {round}: {name}")
    after = current(exchange)
    if name not in after.round.contributors:
        _check_open(after, round)
    return True


def contribution_changes(
    federation: Federation, prepared: Prepared
) -> dict[str, bytes | None]:
    """What a contribution changes in the repository, and all that leaves the device."""
    folder = f"{FOLDER}/{prepared.metadata.round}/{prepared.metadata.participant}/"
    old = [path for path in federation.snapshot.files if path.startswith(folder)]
    new = {folder + file: content for file, content in prepared.files().items()}
    return {**{path: None for path in old if path not in new}, **new}


def _check_open(federation: Federation, round: int) -> None:
    if round != (now := federation.open_round):
        raise FederationError(
            f"round {round} is {'closed' if round < now else 'not open yet'}, round "
            f"{now} is open: python -m comigs_mlx.sync pull, train, then push again"
        )
