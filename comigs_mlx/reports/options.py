"""The options of `python -m comigs_mlx.report`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from comigs_mlx.config import group, option
from comigs_mlx.options import BATCH, WINDOW, ReadingGiven


@dataclass(frozen=True)
class ReportConfig:
    """Report on a finished run, on text that it has not learnt from.

    Whether sharing helps: the run with the generalist of each round that it keeps,
    compared with nothing shared, document by document. How far the router is from the
    best expert of every token. With --against or --against-run: in which blocks another
    text, or another participant's run, is routed differently.

      python -m comigs_mlx.report --run runs/notes
      python -m comigs_mlx.report --run runs/notes --against ~/News --html report.html
      python -m comigs_mlx.report --run runs/ann --against-run runs/ben --json
    """

    run: str = option("", "folder of the run", "DIR")
    data: str | None = option(
        None,
        "text to measure on, as for train (default: the run's own)",
        "PATH|DATASET",
    )
    split: Literal["train", "valid", "test", "all"] = option(
        "test", "part of the text; all takes every document"
    )
    against: str | None = option(
        None,
        "another text, all of it: in which blocks is it routed differently?",
        "PATH|DATASET",
    )
    against_run: str | None = option(
        None,
        "another participant's run on the same base: where does it route the same "
        "text differently?",
        "DIR",
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    batch_size: int | None = option(
        None, "sequences in a batch (default: the run's)", "N", BATCH
    )
    seq_len: int | None = option(
        None, "tokens in a window (default: the run's)", "TOKENS", WINDOW
    )
    token_cache: bool | None = option(
        None, "keep the text's tokens for the next time (default: as the run)"
    )
    json: bool = option(False, "print one JSON object instead of the text")
    html: str | None = option(
        None, "also write the report as one page that needs nothing else", "FILE"
    )
    reading: ReadingGiven = group(ReadingGiven)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        for name in ("batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"--{name.replace('_', '-')} {value} must be at least 1"
