"""`python -m comigs_mlx.prune`: take out specialists that are hardly used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.options import WINDOW


@dataclass(frozen=True)
class PruneConfig:
    """Measure on held-out text how much each expert is used, and take out the
    specialists whose share is below a threshold.

    The loss is measured before and after. Generalists stay in any case: they belong to
    the federation's shape. What the run was before is kept in RUN/before, and --undo
    brings it back byte for byte.

      python -m comigs_mlx.prune --run runs/notes --dry-run
      python -m comigs_mlx.prune --run runs/notes --threshold 0.05
      python -m comigs_mlx.prune --run runs/notes --experts specialist-2
      python -m comigs_mlx.prune --run runs/notes --undo
    """

    run: str = option("", "folder of the run", "DIR")
    data: str | None = option(
        None, "held-out text, as for train (default: the run's own)", "PATH|DATASET"
    )
    split: Literal["train", "valid", "test", "all"] = option(
        "test", "part of the text; all takes every document"
    )
    windows: int = option(
        256, "windows of --seq-len tokens that are measured", "N", WINDOW
    )
    threshold: float = option(
        0.02, "share of the weight below which a specialist is taken out", "SHARE"
    )
    experts: str = option(
        "", "specialists to take out whatever their share is", "NAME,..."
    )
    force: bool = option(False, "with --undo: also if steps trained since are lost")
    dry_run: bool = option(False, "measure, and leave the run as it is")
    undo: bool = option(False, "take the run's last pruning back")
    json: bool = option(False, "print one JSON object instead of lines")

    @property
    def names(self) -> tuple[str, ...]:
        """The specialists that are taken out in any case."""
        return tuple(n.strip() for n in self.experts.split(",") if n.strip())

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if self.windows < 1:
            yield f"--windows {self.windows} must be at least 1"
        if not 0 <= self.threshold <= 1:
            yield f"--threshold {self.threshold} must be from 0 to 1"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, prune and print, or take back."""
    config = parse(PruneConfig, "comigs_mlx.prune", argv)
    from comigs_mlx.lifecycle.pruning import Wish, prune
    from comigs_mlx.lifecycle.undoing import undo
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    folder.check_exists()
    if config.undo:
        command.show(undo(folder, "prune", config.force))
        return
    wish = Wish(
        data=config.data,
        split=config.split,
        windows=config.windows,
        threshold=config.threshold,
        names=config.names,
        dry_run=config.dry_run,
    )
    report = prune(folder, wish, command.say)
    if config.json:
        command.show(json.dumps(report, allow_nan=False))
    else:
        command.show("\n".join(lines(report, config.dry_run)))


def lines(report: dict[str, Any], dry_run: bool) -> Iterator[str]:
    """The report for people."""
    shares = (f"{name} {value:.1%}" for name, value in report["share"].items())
    yield f"expert share on {report['split']}: {', '.join(shares)}"
    yield f"loss before: {report['loss']:.4f}"
    if not report["out"]:
        limit = f"{report['threshold']:.1%}"
        yield f"no specialist's share is below {limit}: the run was left as it is"
        return
    yield f"loss after: {report['after']:.4f}"
    done = "would be taken out" if dry_run else "taken out"
    left = ", ".join(report["experts"])
    yield f"{done}: {', '.join(report['out'])}; the experts are then {left}"


if __name__ == "__main__":
    command.run(main)
