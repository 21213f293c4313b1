"""What all commands share: exit codes, one-line errors, progress."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import sys
import time
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from comigs_mlx import environment
from comigs_mlx.errors import (
    ComigsError,
    ConfigError,
    is_gpu_watchdog,
    is_out_of_memory,
)
from comigs_mlx.invocation import as_called, called

BAD_INPUT, INTERRUPTED = 2, 130
ADVICE = {
    errno.ENOSPC: ": make room on the disk",
    errno.EDQUOT: ": your quota is used up: make room",
    errno.EROFS: ": choose a folder that can be written",
}
"""What to do about an error of the system, where it is not plain."""

EXTRAS = {
    "gradio": "app",
    "datasets": "data",
    "cryptography": "federation",
    "dp_accounting": "federation",
    "matplotlib": "simulation",
    "gguf": "export",
    "flwr": "flower",
    "ray": "cluster",
}
"""Packages that only some commands need -> the extra that brings them."""

OUT_OF_MEMORY = (
    "there is not enough memory for this: choose smaller numbers (such as "
    "--batch-size, --seq-len, --rank) or a smaller base model"
)

GPU_WATCHDOG = (
    "macOS ended the work on the GPU, as it kept the display from being drawn or took "
    "too long: let the display sleep; a training goes on from its last save with "
    "--resume, also with --grad-checkpoint, which gives the GPU smaller pieces; a new "
    "run can have a smaller --batch-size or --seq-len"
)

QUIET_SECONDS = 15.0
"""Where there is no terminal, a line of progress at least this often."""


def run(main: Callable[[], None]) -> None:
    """Run a command and end the process with its exit code.

    0 on success; 2 with one line per problem on stderr for bad input; 130 after Ctrl-C.
    Work goes on where nobody reads what is said on stderr any more; a result that
    nobody reads ends the command quietly. No library sends telemetry.
    """
    environment.send_no_telemetry()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    with _unread_messages():
        try:
            main()
        except _Unread:
            _discard(sys.stdout)
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(INTERRUPTED)
        except Exception as error:
            if (problem := explain(error)) is None:
                raise
            say(f"error: {problem}")
            sys.exit(BAD_INPUT)


def action(
    argv: Sequence[str] | None,
    module: str,
    summaries: Mapping[str, str],
    takes: str = "",
) -> tuple[str, list[str]]:
    """Read which of its actions a command is to do, or show them.

    Args:
        argv: Arguments; None: those of the process.
        module: The command's module, for the usage line.
        summaries: Action -> a sentence on it.
        takes: What all of them need, for the usage line.

    Returns:
        The action, and the other arguments.

    Raises:
        ConfigError: If there is no such action.
    """
    name, *others = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if name in ("-h", "--help"):
        program = called(module)
        usage = " ".join(filter(None, ("usage:", program, "ACTION", takes, "[...]")))
        lines = [f"  {action:8}{summary}" for action, summary in summaries.items()]
        tail = f"{program} ACTION --help shows the flags of each"
        show("\n".join([usage, "", *lines, "", tail]))
        sys.exit(0)
    if name not in summaries:
        raise ConfigError(f"{name!r} is none of {', '.join(summaries)} (see --help)")
    return name, others


def explain(error: Exception) -> str | None:
    """What to tell the user; None for an error of this program."""
    if isinstance(error, ComigsError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written
        where = f": {error.filename!r}" if error.filename is not None else ""
        advice = ADVICE.get(error.errno or 0, "")
        return f"{error.strerror or error}{where}{advice}"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return missing(error.name)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if is_gpu_watchdog(error):
        return GPU_WATCHDOG
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "no home folder is known for a path that begins with ~: write it in full"
    return None


def missing(package: str) -> str:
    """How to install an optional package, as a sentence."""
    extra = EXTRAS[package]
    return f"this needs the package {package}: pip install 'comigs-mlx[{extra}]'"


def check_installed(package: str) -> None:
    """Refuse to begin without an optional package.

    Raises:
        ConfigError: With the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(missing(package))


class _Unread(Exception):
    """Nobody reads the results any more, as after `| head`."""


class _Patient:
    """A stream whose reader may go away: what is said then is lost; work goes on."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: closed
            _discard(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _unread_messages() -> Iterator[None]:
    """Let nobody have to read what is said on stderr."""
    before = sys.stderr
    sys.stderr = typing.cast("typing.TextIO", _Patient(before))
    try:
        yield
    finally:
        sys.stderr = before


def _discard(stream: Any) -> None:
    """From now on, let the system throw away what is written to a stream.

    Otherwise Python would write what is left in its buffer at the end, and complain.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say(text: str) -> None:
    """One line on stderr; results alone go to stdout.

    Commands that it names are named as the user called this one.
    """
    print(as_called(text), file=sys.stderr, flush=True)  # noqa: T201


def show(text: str, end: str = "\n") -> None:
    """A result, on stdout."""
    try:
        print(text, end=end, flush=True)  # noqa: T201
    except BrokenPipeError:
        raise _Unread from None


def on_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr.isatty()


def in_colour() -> bool:
    """Whether results may have colours: a person reads them, and has not said no.

    See no-color.org: any value of NO_COLOR but the empty one says no.
    """
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


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


class Steps:
    """Says on stderr how far counted work is; of short work nothing."""

    def __init__(self, what: str, unit: str, every: float = 2.0):
        """Begin now.

        Args:
            what: What is done, such as "reading the prompt".
            unit: What is counted, such as "tokens".
            every: Seconds between two lines, at least.
        """
        self._what, self._unit, self._every = what, unit, every
        self._first = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        now = time.monotonic()
        if 0 < done < total and now - self._last > self._every:
            self._last = now
            left = clock((now - self._first) / done * (total - done))
            say(f"{self._what} {done:,}/{total:,} {self._unit}  eta {left}")


def clock(seconds: float) -> str:
    """`65` -> `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
