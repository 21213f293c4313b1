"""Specialists that held-out text hardly uses are taken out of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.lifecycle.reshaping import Pruning
from comigs_mlx.lifecycle.rewriting import Rewriting
from comigs_mlx.lifecycle.texts import Reader
from comigs_mlx.messages import Say
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Evaluator


@dataclass(frozen=True)
class Wish:
    """What a user wants of pruning.

    Attributes:
        data: The held-out text; None is the run's own.
        split: The part of it that is measured.
        windows: The number of windows that are measured.
        threshold: The share below which a specialist is taken out.
        names: The experts that are taken out in any case.
        dry_run: Whether it is only told what would be.
    """

    data: str | None = None
    split: str = "test"
    windows: int = 256
    threshold: float = 0.02
    names: tuple[str, ...] = ()
    dry_run: bool = False


def prune(folder: RunFolder, wish: Wish, say: Say) -> dict[str, Any]:
    """Measure how much each expert is used, and take out who is used too little.

    Args:
        folder: The run.
        wish: What is wanted.
        say: Receives a sentence before each step that takes time.

    Returns:
        The report as plain values: each expert's `share`, the `loss` before it, the
        names of those taken `out`, and the loss `after`, where there are any.

    Raises:
        ComigsError: If something does not fit; the run is what it was then.
    """
    with folder.in_use():
        run = Rewriting.of(folder, say)
        options = run.config.experts.resolved()
        for name in wish.names:
            if name not in options.names:
                raise ConfigError(
                    f"--experts {name}: the experts are {', '.join(options.names)}"
                )
        chosen = tuple(options.names.index(name) for name in wish.names)
        Pruning(options, chosen).check()
        source = run.config.data.data if wish.data is None else wish.data
        reader = Reader(run.base, run.config, say)
        batches = reader.windows(source, wish.split, wish.windows)
        say("measuring the loss before")
        score = Evaluator(run.mixture).score(batches)
        report = {
            "split": wish.split,
            "threshold": wish.threshold,
            "share": dict(zip(options.names, score.share, strict=True)),
            "loss": score.loss,
        }
        rare = [i for i, share in enumerate(score.share) if share < wish.threshold]
        specialists = [i for i in rare if i >= options.generalists]
        change = Pruning(options, tuple(sorted({*chosen, *specialists})))
        if not change.out:
            return {**report, "out": []}
        change.check()
        return report | _pruned(run, wish, change, batches, say)


def _pruned(
    run: Rewriting, wish: Wish, change: Pruning, batches: Any, say: Say
) -> dict[str, Any]:
    """Take the experts out, measure again, and write the run unless it is a try."""
    names = [change.before.names[i] for i in change.out]
    run.reshape(change)
    say("measuring the loss after")
    after = Evaluator(run.mixture).score(batches).loss
    if not wish.dry_run:
        frozen = change.names(run.config.training.frozen_names)
        what = f"{', '.join(names)} taken out"
        with run.changing(change, frozen, "prune", what):
            pass
    return {"out": names, "after": after, "experts": change.options.names}
