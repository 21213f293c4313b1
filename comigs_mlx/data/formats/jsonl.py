"""JSONL: every line is an object with the columns of `comigs_mlx.data.rows`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.columns import mapped
from comigs_mlx.data.pieces import FileHead, Piece, Skipped
from comigs_mlx.data.reading import read_utf8
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.reading_progress import EVERY, Advance, ignore, with_progress
from comigs_mlx.data.rows import parsed, read_rows
from comigs_mlx.data.splits import Placed
from comigs_mlx.errors import DataError, raise_all

ORDER = 81
KIND = "jsonl"

ENDINGS = (".jsonl", ".ndjson")
"""The endings of the files that are read."""


def matches(file: FileHead) -> bool:
    """Tell whether the file's name says that it is JSONL."""
    return file.suffix in ENDINGS


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the rows.

    Raises:
        DataError: If a row is invalid; the text names file and line of at most ten.
    """
    rows = read_rows(mapped(lines(path), reading))
    raise_all(DataError, rows.problems)
    yield from (row for row in rows.samples if isinstance(row, Placed))
    for _ in range(rows.blank):
        yield Skipped("rows without text", str(path))


def lines(path: Path, advance: Advance = ignore) -> Iterator[tuple[str, Any]]:
    """Yield place and content of every line that is not blank."""
    texts = read_utf8(path).split("\n")
    counted = with_progress(
        enumerate(texts, 1), f"lines of {path.name}", advance, len(texts), EVERY
    )
    for number, text in counted:
        if text.strip():
            yield f"{path}:{number}", parsed(text)
