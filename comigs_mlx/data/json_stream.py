"""Reads a large JSON file piece by piece, so that only one piece is in memory.

Exports of chats are one array of up to a gigabyte; Python's objects for it would take
several times as much.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from comigs_mlx.errors import DataError

CHUNK = 1 << 20
"""The characters that are read at a time, at least."""

NEAR = 16
"""An error so close to the end of what was read may be a value that is cut in two."""

DECODER = json.JSONDecoder()
BLANK = " \t\r\n"


class JsonStream:
    """A JSON text that is read from its beginning on.

    What `fields` and `items` stop at must be read or skipped, by `value`, before they
    go on.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        """Begin to read `file`, which errors call `name`."""
        self._file, self._name = file, name
        self._buffer, self._at, self._line = "", 0, 1
        self._is_whole = False

    def peek(self) -> str:
        """Return the next character that is not blank; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Read the next value whole.

        Raises:
            DataError: If there is none; the text names the line.
        """
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not (self._is_cut(error) and self._more()):
                    self._fail(error.pos, error.msg)
            except RecursionError:
                self._fail(self._at, "it is too deeply nested")
            except ValueError:  # what Python says of numbers with thousands of digits
                self._fail(self._at, "a number has too many digits")
            else:
                # A number may go on behind what was read.
                tail = self._buffer[end : end + NEAR]
                is_open = len(tail) < NEAR and all(c in ".+-eE" for c in tail)
                if not (is_open and self._more()):
                    self._at = end
                    return value

    def fields(self) -> Iterator[str]:
        """Yield the keys of an object, each before its value."""
        self._expect("{")
        while self.peek() != "}":
            key = self.value()
            self._expect(":")
            yield str(key)
            if self.peek() != "}":
                self._expect(",")
        self._expect("}")

    def items(self) -> Iterator[int]:
        """Yield the numbers of the items of an array, from 1, each before its value."""
        self._expect("[")
        number = 0
        while self.peek() != "]":
            number += 1
            yield number
            if self.peek() != "]":
                self._expect(",")
        self._expect("]")

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            self._fail(self._at, f"expected {character}")
        self._at += 1

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Tell whether more text may mend `error`, which is not so deep inside."""
        is_string = error.msg.startswith("Unterminated string")
        return is_string or error.pos >= len(self._buffer) - NEAR

    def _more(self) -> bool:
        """Read more, twice as much each time; return whether there was any."""
        if self._is_whole:
            return False
        self._line += self._buffer.count("\n", 0, self._at)
        rest = self._buffer[self._at :]
        try:
            more = self._file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            self._fail(len(self._buffer), f"expected UTF-8 text, {error.reason}")
        self._buffer, self._at, self._is_whole = rest + more, 0, not more
        return bool(more)

    def _fail(self, at: int, reason: str) -> None:
        line = self._line + self._buffer.count("\n", 0, at)
        is_cut = self._is_whole and at >= len(self._buffer) - NEAR
        advice = "the file is cut off: export it again" if is_cut else "export it again"
        raise DataError(f"{self._name}:{line}: expected JSON: {reason}: {advice}")


def array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number, from 1, and value of each item of the array in a file.

    A file that holds one object alone counts as an array of it.

    Raises:
        DataError: If the file cannot be read or is not JSON; the text names the line.
    """
    with opened(path) as file:
        stream = JsonStream(file, str(path))
        if stream.peek() != "[":
            yield 1, stream.value()
            return
        for number in stream.items():
            yield number, stream.value()


def opened(path: Path) -> TextIO:
    """Open a file of JSON.

    Raises:
        DataError: If it cannot be opened.
    """
    try:
        return open(path, encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def text(value: Any) -> str:
    r"""Return a string of JSON as text, with "\n" for line ends; "" for what is none.

    JSON allows half characters and zero bytes, which no text holds.
    """
    if not isinstance(value, str):
        return ""
    whole = value.encode("utf-8", "replace").decode()
    return whole.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()
