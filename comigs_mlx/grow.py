"""`python -m comigs_mlx.grow`: one more specialist for text of another kind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.options import WINDOW


@dataclass(frozen=True)
class GrowConfig:
    """Tell how unlike a run's own text a new one is, and give the run one more
    specialist for it if it is.

    The new specialist is a copy of the one that the new text uses most, and shares its
    weight: outputs do not change until training goes on. The old specialists are frozen
    then, so that they keep what they know. What the run was before is kept in
    RUN/before, and --undo brings it back byte for byte. What is compared never leaves
    the run's folder.

      python -m comigs_mlx.grow --run runs/notes --data ~/Recipes --dry-run
      python -m comigs_mlx.grow --run runs/notes --data ~/Recipes
      python -m comigs_mlx.train --run runs/notes --resume --data ~/Recipes --steps 400
      python -m comigs_mlx.grow --run runs/notes --undo
    """

    run: str = option("", "folder of the run", "DIR")
    data: str | None = option(None, "the new text, as for train", "PATH|DATASET")
    split: Literal["train", "valid", "test", "all"] = option(
        "all", "part of the new text; all takes every document"
    )
    windows: int = option(
        128, "windows of --seq-len tokens that are compared and measured", "N", WINDOW
    )
    threshold: float = option(
        0.5, "share of windows unlike the run's text from which it grows", "SHARE"
    )
    freeze_old: bool = option(
        True, "freeze the specialists that are there (see comigs_mlx.freeze)"
    )
    force: bool = option(
        False,
        "grow also if the text is nothing new; with --undo, also if steps are lost",
    )
    dry_run: bool = option(False, "only tell how new the text is")
    undo: bool = option(False, "take the run's last growth back")
    json: bool = option(False, "print one JSON object instead of lines")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if self.data is None and not self.undo:
            yield "--data PATH is missing: the text that the run is to learn from"
        if self.data is not None and self.undo:
            yield "--undo takes no --data: it only brings back what was"
        if self.windows < 8:
            yield f"--windows {self.windows} must be at least 8"
        if not 0 <= self.threshold <= 1:
            yield f"--threshold {self.threshold} must be from 0 to 1"


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, grow and print, or take back."""
    config = parse(GrowConfig, "comigs_mlx.grow", argv)
    from comigs_mlx.lifecycle.growing import Wish, grow
    from comigs_mlx.lifecycle.undoing import undo
    from comigs_mlx.options import from_anywhere
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    folder.check_exists()
    if config.undo:
        command.show(undo(folder, "grow", config.force))
        return
    assert config.data is not None
    wish = Wish(
        data=from_anywhere(config.data),
        split=config.split,
        windows=config.windows,
        threshold=config.threshold,
        force=config.force,
        dry_run=config.dry_run,
        freeze_old=config.freeze_old,
    )
    report = grow(folder, wish, command.say)
    if config.json:
        command.show(json.dumps(report, allow_nan=False))
    else:
        command.show("\n".join(lines(report, config)))


def lines(report: dict[str, Any], config: GrowConfig) -> Iterator[str]:
    """The report for people."""
    windows, share = report["windows"], report["drift"]
    yield f"drift: {share:.0%} of {windows} windows are unlike the run's text"
    blocks = (f"{block}: {z:.1f}" for block, z in report["z"].items())
    yield f"mean z by block: {', '.join(blocks)} (about 0 for text of its own kind)"
    shares = (f"{name} {value:.1%}" for name, value in report["share"].items())
    yield f"loss before: {report['loss']:.4f}; expert share: {', '.join(shares)}"
    if report["expert"] is not None:
        yield f"loss after: {report['after']:.4f}"
        frozen = ", ".join(report["frozen"]) or "none"
        yield f"grown: {report['expert']} is a copy of {report['of']}; frozen: {frozen}"
        yield (
            f"train it: python -m comigs_mlx.train --run {config.run} --resume "
            f"--data {config.data} --steps N"
        )
    elif share <= report["threshold"]:
        yield (
            f"the run was left as it is: at most {report['threshold']:.0%} is nothing "
            "new; add --force to grow all the same"
        )
    else:
        yield "the run was left as it is: without --dry-run it would grow"


if __name__ == "__main__":
    command.run(main)
