"""A pull that is refused where it would make this run worse (`--if-better`).

The new generalists are compared with those of the round that the run pulled last, by
the loss of the run's mixture on its own validation text, in paired differences: what
changes between two rounds is what the others and the aggregator have made. What the run
has learnt itself since then is not the measure, as a run that trains alone on its text
is nearly always better there than a mean over several participants, and would never
pull again. Where the round before is not kept, or was mixed by the run itself, what
the run has now is the measure. Nothing of this is sent anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.tensor_source import Array, Arrays
from comigs_mlx.federation.participant import round_history
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.federation.participant.mixing import Scores

if TYPE_CHECKING:
    from comigs_mlx.training.evaluation import Score

Judge = Callable[[], Scores]
"""It makes the scores of generalists; it is called where there is something to
judge."""


@dataclass(frozen=True)
class Refusal:
    """Why a round was not taken; losses are in nats per token of validation text.

    Attributes:
        round: The number of the round.
        compared_with: What it was compared with, in words.
        loss: The loss with the round's generalists; None where it is not finite.
        before: The loss with those that it was compared with.
        difference: `loss - before`; None where there is no loss.
        ci95: The interval of the difference; None where one document leaves nothing to
            resample.
    """

    round: int
    compared_with: str
    loss: float | None
    before: float
    difference: float | None
    ci95: tuple[float, float] | None

    @property
    def sentence(self) -> str:
        """The refusal in one sentence."""
        start = f"round {self.round} makes this run worse than {self.compared_with}: "
        if self.loss is None or self.difference is None:
            return f"{start}its loss is no finite number (before: {self.before:.4f})"
        told = "one document: no interval"
        if self.ci95 is not None:
            told = "95 % interval {:+.4f} to {:+.4f}".format(*self.ci95)
        return (
            f"{start}{self.loss:.4f} against {self.before:.4f} nats per token of "
            f"validation text ({self.difference:+.4f}, {told})"
        )


class Worse(FederationError):
    """A round makes the run worse; the run is unchanged."""

    def __init__(self, refusal: Refusal):
        super().__init__(
            f"{refusal.sentence}: the run keeps what it has; pull without --if-better "
            "to take it all the same"
        )
        self.refusal = refusal


def check(
    judge: Judge,
    round: int,
    new: dict[str, Array],
    before: dict[str, Array],
    compared_with: str,
) -> None:
    """Refuse new generalists that are worse than others, beyond the interval.

    Args:
        judge: It makes the scores on the run's validation text.
        round: The number of the round that is to be pulled.
        new: The generalists that the run would get.
        before: The generalists to compare them with.
        compared_with: The words for `before`.

    Raises:
        Worse: If they are, or if their loss is not finite.
    """
    scores = judge()
    old = scores(Arrays("", before))
    if old is None:  # nothing can be worse
        return
    refusal = _refusal(round, compared_with, scores(Arrays("", new)), old)
    if refusal is not None:
        raise Worse(refusal)


def _refusal(
    round: int, compared_with: str, new: Score | None, old: Score
) -> Refusal | None:
    from comigs_mlx.training.evaluation import difference

    if new is None:
        return Refusal(round, compared_with, None, old.loss, None, None)
    change = difference(new, old)
    if not change.worse:
        return None
    losses = new.loss, old.loss
    return Refusal(round, compared_with, *losses, change.mean, change.interval)


def measure_of(
    run: Path, record: Membership | None, own: dict[str, Array]
) -> tuple[dict[str, Array], str]:
    """The generalists that new ones are compared with, and words for them.

    Args:
        run: The folder of the run.
        record: The run's place in the federation; None where it is new there.
        own: The generalists that the run has now.
    """
    if record is not None and record.round >= 0 and record.personal is None:
        with contextlib.suppress(FederationError):
            kept = round_history.read(run, record.round, record.uri)
            return kept, f"round {record.round}"
    return own, "what it has now"
