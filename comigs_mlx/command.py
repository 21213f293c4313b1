"""What all commands share: exit codes, one-line errors, progress."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from comigs_mlx.errors import ComigsError

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
QUIET_SECONDS = 15.0
"""Where there is no terminal, a line of progress at least this often."""


def run(main: Callable[[], None]) -> None:
    """Run a command and end the process with its exit code.

    0 on success; 2 with one line per problem on stderr for bad input; 130 after Ctrl-C.
    """
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        main()
        sys.stdout.flush()
    except ComigsError as error:
        say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(OK)
    except OSError as error:  # a full disk, a folder that may not be written
        reason = error.strerror or str(error)
        where = f": {error.filename!r}" if error.filename is not None else ""
        say(f"error: {reason}{where}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)


def say(text: str) -> None:
    """One line on stderr; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def show(text: str, end: str = "\n") -> None:
    """A result, on stdout."""
    print(text, end=end, flush=True)  # noqa: T201


def on_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Progress of `total` steps: a bar with speed and ETA, or plain lines.

    Yields:
        A function to call after each step, with a few words on how it stands.
    """
    if on_terminal():
        with _bar(total, what) as advance:
            yield advance
    else:
        yield _Lines(total, what)


@contextlib.contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[note]}",
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


class _Lines:
    """Progress as plain lines, the first step and then no more often than needed."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.done = total, what, 0
        self.first = self.last = 0.0

    def __call__(self, note: str) -> None:
        self.done += 1
        now = time.monotonic()
        self.first = self.first or now  # the first step also compiles: not typical
        if self.done == 1 or self.done == self.total or now - self.last > QUIET_SECONDS:
            self.last = now
            say(f"{self.what} {self.done}/{self.total}  {note}{self._eta(now)}")

    def _eta(self, now: float) -> str:
        if self.done == 1:
            return ""
        each = (now - self.first) / (self.done - 1)
        return f"  eta {clock(each * (self.total - self.done))}"


def clock(seconds: float) -> str:
    """`65` -> `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
