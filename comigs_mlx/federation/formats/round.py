"""round.json: the state of a federation after its last closed round (a public
format).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from comigs_mlx.federation.formats import schema
from comigs_mlx.federation.formats.manifest import (
    ACCOUNT,
    MOST_PARTICIPANTS,
    name_check,
    text_check,
)
from comigs_mlx.federation.formats.schema import between, each, item, matching

ROUND = "round.json"
ROUND_BYTES = 8 * 2**20
HISTORY_ROUNDS, HISTORY_NAMES = 200, 40_000
"""The most rounds, and the most names in them, that the history keeps."""

MOST_NOTES = 20

_count = between(0, 10**9)
_length = between(0, 1e200)
_digest = matching(r"[0-9a-f]{64}", "a SHA-256")


@dataclass(frozen=True)
class Closed:
    """One closed round, as the model card lists it."""

    round: int = item(_count)
    contributors: tuple[str, ...] = item(each(name_check, MOST_PARTICIPANTS))


@dataclass(frozen=True)
class Round:
    """The last closed round; 0 is the beginning, before any contribution.

    Attributes:
        round: The number of the last closed round; the open one is `round + 1`.
        contributors: The participants whose contributions are in it, sorted.
        weights: Maps a participant to its share in the result; empty where the
            aggregator does not weigh whole contributions.
        aggregator: The name of the aggregator used.
        refused: Maps a participant to the reason of the refusal, in a few words.
        inexactness: The distance between the combined generalists and the exact
            combination; see `aggregation.inexactness`.
        closed_at: The time at which it was closed, in seconds since the epoch.
        owners: Maps a participant to the account whose contribution counted first under
            that name, of all rounds; the first 10,000 names.
        history: The earlier rounds and this one, oldest first; the last 200 at most.
        start: The digest of the generalists that the round started from.
        generalist: The digest of the generalists that it made; see
            `tensor_source.digest`.
        closed_by: The account that closed it; None where it is not known.
        norm_known: The length of an update that earlier rounds gave to compare with.
        norm: The length of an update that the next round is given; see `clipping`.
        notes: The notes on how the round was closed, a sentence each.
        state: The digest of what the aggregator remembers after the round; None where
            it remembers nothing.
    """

    NEWER: ClassVar = (
        "start",
        "generalist",
        "closed_by",
        "norm_known",
        "norm",
        "notes",
        "state",
    )

    round: int = item(_count, 0)
    contributors: tuple[str, ...] = item(each(name_check, MOST_PARTICIPANTS), ())
    weights: Mapping[str, float] = item(each(name_check, MOST_PARTICIPANTS), {})
    aggregator: str = item(text_check, "mean")
    refused: Mapping[str, str] = item(each(name_check, MOST_PARTICIPANTS), {})
    inexactness: float | None = item(between(0, 10**9), None)
    closed_at: float = item(between(0, 10**11), 0.0)
    owners: Mapping[str, str] = item(each(name_check, MOST_PARTICIPANTS), {})
    history: tuple[Closed, ...] = dataclasses.field(default=())
    start: str | None = item(_digest, None)
    generalist: str | None = item(_digest, None)
    closed_by: str | None = item(matching(ACCOUNT, "an account of the Hub"), None)
    norm_known: float | None = item(_length, None)
    norm: float | None = item(_length, None)
    notes: tuple[str, ...] | None = item(each(text_check, MOST_NOTES), None)
    state: str | None = item(_digest, None)

    @classmethod
    def from_json(cls, content: bytes | str) -> Round:
        """Read round.json.

        Raises:
            FederationError: If anything is wrong; the text lists all of it.
        """
        return schema.read(cls, content, ROUND, ROUND_BYTES)

    def to_json(self) -> bytes:
        """Write the content of round.json.

        Raises:
            FederationError: If a value cannot work.
        """
        return schema.write(self, ROUND, ROUND_BYTES)

    def following(
        self,
        weights: Mapping[str, float],
        aggregator: str,
        closed_at: float,
        contributors: Sequence[str],
        refused: Mapping[str, str] | None = None,
        inexactness: float | None = None,
        accounts: Mapping[str, str] | None = None,
        start: str | None = None,
        generalist: str | None = None,
        closed_by: str | None = None,
        norm_known: float | None = None,
        norm: float | None = None,
        notes: Sequence[str] = (),
        state: str | None = None,
    ) -> Round:
        """Make the round after this one, with history and owners carried on.

        `accounts` maps contributors to their accounts; the other arguments are
        described under the class's attributes.
        """
        owners = {**self.owners, **(accounts or {}), **self.owners}  # oldest first
        names = tuple(sorted(contributors))
        history = (*self.history, Closed(self.round + 1, names))
        return Round(
            round=self.round + 1,
            contributors=names,
            weights=dict(weights),
            aggregator=aggregator,
            refused={name: why[:200] for name, why in (refused or {}).items()},
            inexactness=inexactness,
            closed_at=closed_at,
            owners=dict(list(owners.items())[:MOST_PARTICIPANTS]),
            history=_bounded(history),
            start=start,
            generalist=generalist,
            closed_by=closed_by,
            norm_known=norm_known,
            norm=norm,
            notes=tuple(notes[:MOST_NOTES]) or None,
            state=state,
        )

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        if len(self.history) > HISTORY_ROUNDS:
            yield f"history: {len(self.history)} rounds, at most {HISTORY_ROUNDS}"
        if not all(0 <= weight <= 1 for weight in self.weights.values()):
            yield "weights: expected shares from 0 to 1"
        if strangers := set(self.weights) - set(self.contributors):
            yield f"weights: {min(strangers)} is not among the contributors"
        if any(len(reason) > 200 for reason in self.refused.values()):
            yield "refused: a reason has more than 200 characters"


def _bounded(history: Sequence[Closed]) -> tuple[Closed, ...]:
    """Return the newest rounds, as many as keep round.json small."""
    newest: list[Closed] = []
    names = 0
    for closed in reversed(history[-HISTORY_ROUNDS:]):
        names += len(closed.contributors)
        if newest and names > HISTORY_NAMES:
            break
        newest.append(closed)
    return tuple(reversed(newest))
