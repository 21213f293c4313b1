"""How a run stands to the open round of its federation, and the one thing to do next.

    get     the run has not the newest generalists: pull
    learn   it has them, and has learnt nothing since: train
    send    it has learnt what the open round was not given: push
    wait    it has contributed: wait for the others
    close   enough have contributed, or the deadline is over: close the round
    follow  it was trained with `--join`, contributes nothing and has the newest

Nothing is asked over the network here: everything is compared with what
`rounds.status` has told before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comigs_mlx.federation.participant import membership, pull_push
from comigs_mlx.federation.participant.membership import Membership

Next = Literal["get", "learn", "send", "wait", "close", "follow"]


@dataclass(frozen=True)
class ParticipantStatus:
    """How a run stands to the open round.

    Attributes:
        next: What to do next.
        round: The number of the open round.
        name: The run's name in the federation; None before its first contribution.
        joined: Whether the run takes part in this federation at all.
        contributed: Whether it has contributed to the open round.
        learnt: The training steps that this round was not given.
        others: Who else has contributed, and was accepted, by name.
        awaited: Who has not, of those who are known: everybody who may contribute, or
            else who did in the last round.
        missing: How many contributions the round still needs to close at once.
        refused: Why the run's own contribution is refused; None where it is not.
        deadline: When the round may close with fewer, in seconds since the epoch; None:
            never.
    """

    next: Next
    round: int
    name: str | None
    joined: bool
    contributed: bool
    learnt: int
    others: tuple[str, ...]
    awaited: tuple[str, ...]
    missing: int
    refused: str | None
    deadline: float | None


def of(run: Path, overview: Mapping[str, Any], step: int) -> ParticipantStatus:
    """How the run in a folder stands; see `api.participant_status`."""
    record = membership.read(run)
    if record is not None and not is_of(record, overview):
        record = None
    return judge(record, overview, step, pull_push.has_joined(run))


def is_of(record: Membership, overview: Mapping[str, Any]) -> bool:
    """Whether a run's record is of the federation of an overview."""
    return record.uri == membership.place(overview["uri"])


def judge(
    record: Membership | None, overview: Mapping[str, Any], step: int, follows: bool
) -> ParticipantStatus:
    """How a run stands.

    Args:
        record: Its record of this federation; None: it has not joined.
        overview: What `status.status` has told.
        step: The training step that the run has.
        follows: Whether it contributes nothing.
    """
    manifest, last = overview["manifest"], overview["round"]
    name = None if record is None else record.participant
    given: Mapping[str, Any] = overview["contributions"]
    accepted = [one for one, fate in given.items() if fate["accepted"]]
    known = manifest["participants"] or last["contributors"]
    deadline = manifest["deadline_seconds"]
    is_in = record is not None and record.contributed == overview["open_round"]
    own = given.get(name) if is_in and name is not None else None
    return ParticipantStatus(
        next=_next(record, overview, step, follows),
        round=overview["open_round"],
        name=name,
        joined=record is not None,
        contributed=is_in,
        learnt=0 if record is None else record.learnt(step),
        others=tuple(one for one in accepted if one != name),
        awaited=tuple(one for one in known if one not in accepted and one != name),
        missing=max(manifest["quorum"] - len(accepted), 0),
        refused=None if own is None or own["accepted"] else own["reason"],
        deadline=None if deadline is None else last["closed_at"] + deadline,
    )


def _next(
    record: Membership | None, overview: Mapping[str, Any], step: int, follows: bool
) -> Next:
    if record is None or record.round != overview["round"]["round"]:
        return "get"
    if overview["due"] and overview["problem"] is None:
        return "close"
    if follows:
        return "follow"
    if record.learnt(step) > 0:
        return "send"
    return "wait" if record.contributed == overview["open_round"] else "learn"
