"""One more specialist for a run that is to learn from text of another kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comigs_mlx.data.batches import Batch
from comigs_mlx.lifecycle import drift
from comigs_mlx.lifecycle.drift import Descriptor
from comigs_mlx.lifecycle.reshaping import Growth
from comigs_mlx.lifecycle.rewriting import DESCRIPTORS, Rewriting
from comigs_mlx.lifecycle.texts import Reader
from comigs_mlx.messages import Note, Say
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Evaluator


@dataclass(frozen=True)
class Wish:
    """What a user wants of growing.

    Attributes:
        data: The new text, as `--data` takes it.
        split: The part of it that is read.
        windows: The number of windows that are compared and measured.
        threshold: The drift from which the run grows.
        force: Whether it grows in any case.
        dry_run: Whether it is only told what would be.
        freeze_old: Whether the specialists that are there learn no more.
    """

    data: str
    split: str = "all"
    windows: int = 128
    threshold: float = 0.5
    force: bool = False
    dry_run: bool = False
    freeze_old: bool = True


def grow(folder: RunFolder, wish: Wish, say: Say) -> dict[str, Any]:
    """Compare a text with what the run knows, and give it a specialist if it is new.

    Args:
        folder: The run.
        wish: What is wanted.
        say: Receives a sentence before each step that takes time, and notes.

    Returns:
        The report as plain values: `drift`, `windows` and `z` by block; `share` and
        `loss` before; and if the run has grown, its new `expert`, the expert it is a
        copy `of`, and the loss `after`.

    Raises:
        ComigsError: If something does not fit; the run is what it was then.
    """
    with folder.in_use():
        run = Rewriting.of(folder, say)
        options = run.config.experts
        Growth(options, options.generalists).check()
        reader = Reader(run.base, run.config, say)
        new_text = reader.windows(wish.data, wish.split, wish.windows)
        known = _known(run, reader, wish.windows, say)
        say("comparing the text with what the run knows")
        layers = drift.last_quarter(run.mixture)
        means = drift.window_means(run.mixture, new_text, layers)
        found = drift.compare(means, known, layers)
        report = {**found.to_dict(), "threshold": wish.threshold}
        report |= _measured(run, new_text, say)
        if wish.dry_run or not (wish.force or found.share > wish.threshold):
            return {**report, "expert": None}
        described = _described(means, say)
        return report | _grown(run, wish, report, new_text, known + described, say)


def _grown(
    run: Rewriting,
    wish: Wish,
    report: dict[str, Any],
    new_text: list[Batch],
    known: list[list[Descriptor]],
    say: Say,
) -> dict[str, Any]:
    """Give the run one more specialist, and measure that nothing else has changed."""
    options = run.config.experts.resolved()
    shares = report["share"]
    nearest = max(options.names[options.generalists :], key=lambda name: shares[name])
    growth = Growth(options, options.names.index(nearest))
    run.reshape(growth)
    say("measuring the loss with the new specialist")
    after = Evaluator(run.mixture).score(new_text).loss
    frozen = set(run.config.training.frozen_names)
    if wish.freeze_old:
        frozen |= set(options.names[options.generalists :])
    ordered = [name for name in options.names if name in frozen]
    name = growth.options.names[-1]
    if options.top_k < options.experts:
        say(
            Note(
                f"a token uses {options.top_k} of {options.experts} experts, so the "
                "copy changes the output where both are among them"
            )
        )
    what = f"{name} is a copy of {nearest}"
    # Part of the change: undone, the run no longer knows the new text either.
    with run.changing(growth, ordered, "grow", what) as new:
        drift.save(new / DESCRIPTORS, known)
    return {"expert": name, "of": nearest, "after": after, "frozen": ordered}


def _known(run: Rewriting, reader: Reader, count: int, say: Say) -> list[Any]:
    """Return the descriptors of the run's texts; the first is made where it lacks."""
    file = run.folder.path / DESCRIPTORS
    if file.is_file():
        return drift.load(file)
    source, layers = reader.config.data.data, drift.last_quarter(run.mixture)
    say(f"describing the run's own text, {source}: once, and it stays in {file.parent}")
    train = drift.window_means(
        run.mixture, reader.windows(source, "train", 2 * count), layers
    )
    others = drift.window_means(
        run.mixture, reader.windows(source, "valid", count), layers
    )
    if others.shape[1] < 2 * drift.FEWEST:
        cut = train.shape[1] * 3 // 4
        train, others = train[:, :cut], train[:, cut:]
    known = [drift.fit(train, others)]
    drift.save(file, known)
    return known


def _described(means: Any, say: Say) -> list[list[Descriptor]]:
    """Describe the new text, too, so that it is known from now on."""
    cut = means.shape[1] * 3 // 4
    if min(cut, means.shape[1] - cut) < drift.FEWEST:
        say(Note("the text is too short to be recognised the next time"))
        return []
    return [drift.fit(means[:, :cut], means[:, cut:])]


def _measured(run: Rewriting, batches: list[Batch], say: Say) -> dict[str, Any]:
    """Measure the loss of the mixture, and each expert's share, as plain values."""
    say("measuring the loss before")
    score = Evaluator(run.mixture).score(batches)
    shares = zip(run.mixture.options.names, score.share, strict=True)
    return {"loss": score.loss, "share": dict(shares)}
