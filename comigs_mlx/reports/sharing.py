"""Is sharing helping me? A run with the generalist of each kept round, and without.

Everything is measured on one held-out text, with the specialists and the router that
the run has now, and compared document by document. `none` is what the run says with
nothing that was shared: its specialists alone, without the attention LoRA, which
belongs to the first generalist. The specialists have learnt beside generalists; a run
that had never shared might do better than `none`, which only training one can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx.data.batches import Batch, announced
from comigs_mlx.errors import FederationError
from comigs_mlx.federation import api
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection
from comigs_mlx.runs import generalists
from comigs_mlx.training.evaluation import (
    Difference,
    Evaluator,
    NotFinite,
    Score,
    difference,
)

Advance = Callable[[str], None]
Values = Mapping[str, mx.array]


@dataclass(frozen=True)
class Candidate:
    """One way in which the run can speak.

    Attributes:
        name: Its name for people, such as "round 3".
        score: Its losses; None where they are not finite.
        round: The number of a kept generalist, below 0 for an own one; None for others.
        against_none: Its loss minus that of `none`.
        against_before: Its loss minus that of the round before, among those kept.
        before: The number of that round.
    """

    name: str
    score: Score | None
    round: int | None = None
    against_none: Difference | None = None
    against_before: Difference | None = None
    before: int | None = None


@dataclass(frozen=True)
class Sharing:
    """What the shared generalists are worth to a run.

    Attributes:
        reference: The name of the candidate without anything shared: `none`, or
            `base` for a run without specialists.
        candidates: `base`, `specialist` and `none` where there are specialists, `now`,
            then own and shared generalists that are kept, rounds ascending.
        notes: Sentences on what could not be measured.
    """

    reference: str
    candidates: list[Candidate]
    notes: list[str]

    def named(self, name: str) -> Candidate:
        """Return the candidate of a name."""
        return next(each for each in self.candidates if each.name == name)

    @property
    def rounds(self) -> list[Candidate]:
        """The shared generalists that are kept, rounds ascending."""
        return [c for c in self.candidates if c.round is not None and c.round >= 0]


def kept(run: Path, mixture: Mixture) -> tuple[dict[int, Any], list[str]]:
    """Read the generalists that a run keeps; return them and notes on misfits.

    Args:
        run: The folder of the run.
        mixture: The run's mixture, whose generalists give the shapes.
    """
    own = params.flatten(params.select(mixture.model, params.ROLES))
    known = generalists.of_values(own, mixture.options.generalists)
    shapes = {name: array.shape for name, array in known.items()}
    found, notes = {}, []
    for number in sorted(api.kept(run)):
        try:
            tensors = api.kept_generalists(run, number)
        except FederationError as error:
            notes.append(f"not measured: {error}")
            continue
        if {name: array.shape for name, array in tensors.items()} == shapes:
            found[number] = tensors
        else:
            what = api.kept_as(run)[number]
            notes.append(f"{what} is of another shape than the run: not measured")
    return found, notes


def measured(
    mixture: Mixture,
    batches: Sequence[Batch],
    known: Mapping[str, Score],
    rounds: Mapping[int, Any],
    labels: Mapping[int, str],
    notes: Sequence[str],
    advance: Advance,
) -> Sharing:
    """Measure a run with each generalist that it keeps, and with none.

    Args:
        mixture: The run's mixture; its values are as before afterwards.
        batches: The text that all are measured on.
        known: The scores of `base`, `mixture` and, where there are specialists,
            `specialist`, on the same batches.
        rounds: Maps the number of a kept generalist to its tensors.
        labels: Maps the same numbers to names for people.
        notes: Sentences on what could not be measured.
        advance: It is called after each batch.
    """
    evaluator = Evaluator(mixture)
    own = params.flatten(params.select(mixture.model, params.ROLES))

    def score(name: str, values: Values, selection: Selection) -> Score | None:
        mixture.model.update(params.unflatten(dict(values)))
        try:
            return evaluator.score(announced(batches, advance, name), selection)
        except NotFinite:
            return None
        finally:
            mixture.model.update(params.unflatten(dict(own)))

    base, now = known["base"], known["mixture"]
    candidates = [Candidate("base", base)]
    if "specialist" in known:
        candidates.append(Candidate("specialist", known["specialist"]))
        without = score("none", _without_generalists(own), "specialist")
        candidates.append(Candidate("none", without))
    candidates.append(Candidate("now", now))
    for number, tensors in rounds.items():
        values = generalists.into_values(own, tensors)
        name = labels[number]
        candidates.append(Candidate(name, score(name, values, "auto"), number))
    reference = "none" if "specialist" in known else "base"
    return Sharing(reference, compared(candidates, reference), list(notes))


def passes(known: Mapping[str, Any], rounds: Mapping[int, Any]) -> int:
    """Count how often `measured` reads the text."""
    return ("specialist" in known) + len(rounds)


def compared(candidates: Sequence[Candidate], reference: str) -> list[Candidate]:
    """Add each candidate's differences to the reference and to the round before."""
    none = next(each.score for each in candidates if each.name == reference)
    found, before = [], None
    for each in candidates:
        shared = each.round is not None and each.round >= 0
        found.append(
            Candidate(
                each.name,
                each.score,
                each.round,
                None if each.name == reference else _difference(each.score, none),
                _difference(each.score, before.score) if shared and before else None,
                before.round if shared and before else None,
            )
        )
        before = each if shared else before
    return found


def _difference(one: Score | None, other: Score | None) -> Difference | None:
    return None if one is None or other is None else difference(one, other)


def _without_generalists(own: Values) -> dict[str, mx.array]:
    """The values with every B of the generalists and the attention LoRA at zero."""
    return {
        path: mx.zeros_like(array)
        if params.role_of(path) == "generalist" and path.endswith("lora_b")
        else array
        for path, array in own.items()
    }


def told(change: Difference) -> str:
    """A difference in a few words: "+0.105 nats per token, 95 % interval ..."."""
    if change.interval is None:
        return f"{change.mean:+.4f} nats per token, one document: no interval"
    low, high = change.interval
    return f"{change.mean:+.4f} nats per token, 95 % interval {low:+.4f} to {high:+.4f}"


def verdict(found: Sharing) -> str:
    """Answer the question: `helps`, `hurts`, `undecided` or `unknown`."""
    if (change := found.named("now").against_none) is None:
        return "unknown"
    if change.better:
        return "helps"
    return "hurts" if change.worse else "undecided"


ANSWERS = {
    "helps": "Yes: with the generalist it has now, this run predicts the text better "
    "than with nothing shared",
    "hurts": "No: with the generalist it has now, this run predicts the text worse "
    "than with nothing shared",
    "undecided": "It cannot be told: with and without the generalist, this run "
    "predicts the text about equally well",
}


def sentences(found: Sharing) -> list[str]:
    """Say whether sharing helps, and which round made it worse, a sentence each."""
    lines = []
    if (change := found.named("now").against_none) is not None:
        lines.append(f"{ANSWERS[verdict(found)]} ({told(change)}).")
    lines += [text for each in found.rounds if (text := worse(each))]
    if not found.rounds:
        lines.append(
            "No round of a federation is kept in this run: only what it has now is "
            "compared."
        )
    return [*lines, *found.notes]


def worse(each: Candidate) -> str | None:
    """Say in one sentence that a round made it worse, if it did beyond the interval."""
    if each.score is None:
        return f"With the generalist of {each.name} the loss is no finite number."
    change = each.against_before
    if change is None or change.interval is None or not change.worse:
        return None
    return (
        f"Round {each.round} made it worse than round {each.before}: "
        f"{each.score.loss:.4f} against {each.score.loss - change.mean:.4f} "
        f"({told(change)}); sync pull --back={each.before} brings round "
        f"{each.before} again, and sync pull --if-better refuses such a round."
    )
