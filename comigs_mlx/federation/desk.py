"""A federation as one desk for a user interface: look, pull, push, close, go back.

Everything goes by a run's folder and a federation's URI, and comes back as plain data.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ComigsError, FederationError
from comigs_mlx.federation import (
    closing,
    contributing,
    local,
    membership,
    rounds,
    status,
)
from comigs_mlx.federation import exchange as exchanges
from comigs_mlx.federation import (
    kept as keeping,
)
from comigs_mlx.federation.exchange import Exchange
from comigs_mlx.federation.rounds import Federation
from comigs_mlx.runs.place import Place, reports

HISTORY = "rounds.jsonl"


def overview(uri: str, now: float | None = None) -> dict[str, Any]:
    """How the federation stands: see `status.status`.

    Args:
        uri: Of the federation.
        now: Seconds since the epoch; None: now.

    Raises:
        FederationError: If it cannot be read.
    """
    exchange = exchanges.open_exchange(uri)
    at = time.time() if now is None else now
    return status.status(exchange, rounds.current(exchange), at)


def leaving(run: Path, uri: str, participant: str | None) -> dict[str, Any]:
    """Everything that a push would send, and nothing is sent: see `status.leaving`."""
    prepared, _ = _prepared(run, exchanges.open_exchange(uri), participant)[1:]
    return status.leaving(prepared)


def pull(run: Path, uri: str, participant: str | None = None) -> bool:
    """Replace a run's generalists by the federation's, and keep these.

    Returns:
        Whether anything changed; False where the run has this round already.

    Raises:
        ComigsError: If it cannot be read or the run does not fit; the run is
            unchanged then.
    """
    from comigs_mlx.runs import generalists

    exchange = exchanges.open_exchange(uri)
    federation = rounds.current(exchange)
    changed = local.pull(run, exchange, federation, participant)
    if changed:
        count = federation.manifest.experts.generalists
        tensors, _ = generalists.read(run, count)
        keeping.write(run, federation.round.round, membership.place(uri), tensors)
    return changed


def push(run: Path, uri: str, participant: str | None = None) -> dict[str, Any]:
    """Contribute a run's generalists to the open round, and close it if it is due.

    Returns:
        What `leaving` lists, with "round" and whether it is "closed" now.

    Raises:
        ComigsError: If the round does not take them, and what to do.
    """
    exchange = exchanges.open_exchange(uri)
    federation, prepared, before = _prepared(run, exchange, participant)
    contributing.contribute(exchange, federation, prepared)
    name = prepared.metadata.participant
    local.contributed(run, exchange.uri, name, prepared, before)
    closed = _closed(exchange, federation.open_round)
    sent = status.leaving(prepared)
    return {"round": federation.open_round, "closed": closed, **sent}


def close(uri: str) -> bool:
    """Close the open round if it is due; whether it was."""
    exchange = exchanges.open_exchange(uri)
    return _closed(exchange, rounds.current(exchange).open_round)


def _closed(exchange: Exchange, wanted: int) -> bool:
    """Whether a round is closed now, by this call or by somebody else."""
    now = rounds.current(exchange)
    if now.open_round > wanted:
        return True
    return closing.close_if_due(exchange, now, time.time()) is not None


def _prepared(
    run: Path, exchange: Exchange, participant: str | None
) -> tuple[Federation, Any, Any]:
    """The federation, a contribution to it, and the residual that went into it."""
    record = membership.read(run)
    name = participant or (record.participant if record else None)
    if name is None:
        raise FederationError("no name given: choose yours in the federation first")
    federation = rounds.current(exchange)
    contributing.check_participant(exchange, federation, name)
    return federation, *local.prepare(run, exchange, federation, name)


def history(run: Path) -> list[dict[str, Any]]:
    """What a run wrote of each round it trained in, oldest first."""
    return [each for each, _ in reports(Place(run).path / HISTORY, "round")]


def kept(run: Path) -> list[int]:
    """The rounds whose generalists are kept on this device, ascending."""
    return keeping.rounds(Place(run).path)


def roll_back(run: Path, round: int) -> None:
    """Give a run the generalists of an earlier round again; needs no network.

    The run then stands where a pull of that round left it: a push is refused until the
    newest round is pulled, and a pull brings that again.

    Args:
        run: Not being trained.
        round: One of `kept`.

    Raises:
        ComigsError: If that round is not kept, or the run is in use, damaged or of
            another shape; nothing has been changed then.
    """
    from comigs_mlx.runs import generalists
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(run)
    folder.check_exists()
    with folder.in_use():
        before = membership.read(folder.path)
        if before is None:
            raise FederationError(f"{run} takes part in no federation: pull first")
        tensors = keeping.read(folder.path, round, before.uri)
        step = local.of_run(folder.path).step
        # The record first: killed in between, the run only has to pull again.
        after = dataclasses.replace(before, round=round, step=step)
        membership.write(folder.path, after)
        try:
            generalists.replace(folder, tensors)
        except ComigsError:
            membership.write(folder.path, before)
            raise
