r"""What the user types: lines, several lines at once, and the history of both.

A line that ends in a backslash goes on in the next one. Lines between two lines of
three double quotes are one message, as they are. Where the input is no terminal, its
lines are read in the same way, without a prompt.

What is kept: on a terminal, the last `MOST_LINES` lines that were typed, messages and
commands alike, so that the arrow keys bring them back the next time. They lie in
`$XDG_STATE_HOME/comigs_mlx/chat_history` (or under `~/.local/state`), readable by the
user alone, for all runs together, and never leave the device. Not in the run's folder:
that may be copied or handed on. `--no-history` neither reads nor writes the file, and
it can be deleted at any time. What comes through a pipe is not kept, and no answer is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from comigs_mlx.files import replacing

PROMPT, GOES_ON = "> ", ". "
QUOTES = '"""'

MOST_LINES = 1000
MOST_BYTES = 2**20
"""A larger file of lines is none of ours."""

Ask = Callable[[str], str]
"""Takes a prompt and returns a line without its end; raises EOFError at the end."""


@dataclass(frozen=True)
class Entry:
    """One thing that the user has said.

    Attributes:
        text: The text, maybe of several lines.
        block: Whether it stood between quotes: then it is never a command.
    """

    text: str
    block: bool = False


def read_entry(ask: Ask) -> Entry | None:
    """The next entry, or None at the end of the input.

    What was begun when the input ends is an entry, too.

    Args:
        ask: Gives the lines.
    """
    try:
        line = ask(PROMPT)
    except EOFError:
        return None
    if line.strip() == QUOTES:
        return Entry("\n".join(_until_quotes(ask)), block=True)
    lines = [line]
    with contextlib.suppress(EOFError):
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(ask(GOES_ON))
    return Entry("\n".join(lines))


def _until_quotes(ask: Ask) -> Iterator[str]:
    with contextlib.suppress(EOFError):
        while (line := ask(GOES_ON)).strip() != QUOTES:
            yield line


def asking(stdin: IO[str], prompts: IO[str] | None = None) -> Ask:
    """What gives the lines of an input.

    Bytes that are no text of its encoding are kept: the model's side refuses them in a
    sentence.

    Args:
        stdin: The standard input.
        prompts: The stream that shows prompts to a user who types; None for a pipe. On
            the standard output, lines can be edited.
    """
    with contextlib.suppress(AttributeError):
        changed: Any = stdin
        changed.reconfigure(errors="surrogateescape")
    if prompts is not None and prompts is sys.stdout:
        return input  # with readline, where Python has it

    def ask(prompt: str) -> str:
        if prompts is not None:
            prompts.write(prompt)
            prompts.flush()
        if not (line := stdin.readline()):
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    return ask


class History:
    """The lines that were typed, in readline and in a file."""

    def __init__(self, file: Path | None):
        """Bring back what is kept; a file that cannot be read is left alone.

        Args:
            file: The file that keeps the lines; None keeps none.
        """
        self._file, self._lines = file, _readline()
        if self._lines is None or file is None:
            return
        self._lines.clear_history()
        with contextlib.suppress(OSError):
            if file.stat().st_size <= MOST_BYTES:
                text = file.read_text(encoding="utf-8", errors="replace")
                for line in text.splitlines()[-MOST_LINES:]:
                    self._lines.add_history(line)

    def keep(self) -> None:
        """Write the last lines, for the user alone.

        Raises:
            OSError: If the file cannot be written.
        """
        if self._lines is None or self._file is None:
            return
        count = self._lines.get_current_history_length()
        first = max(count - MOST_LINES, 0) + 1
        lines = [self._lines.get_history_item(i) for i in range(first, count + 1)]
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(self._file) as temporary:
            temporary.chmod(0o600)  # while it is still empty
            text = "".join(f"{line}\n" for line in lines if line)
            temporary.write_text(text, encoding="utf-8", errors="replace")


def _readline() -> Any:
    """Python's readline; None where it was built without."""
    try:
        import readline
    except ImportError:
        return None
    return readline
