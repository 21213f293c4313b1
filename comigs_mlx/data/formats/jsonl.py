"""mlx-lm's JSONL: a folder with train.jsonl [valid.jsonl test.jsonl], or one file.

Every line is an object with the columns of `comigs_mlx.data.rows`. One file alone, or
train.jsonl alone, is divided by document. Validation rows may also stand in
validation.jsonl, val.jsonl or dev.jsonl.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.reading import (
    TEXT_ENDINGS,
    list_dir,
    read_utf8,
    split_files,
    split_notes,
)
from comigs_mlx.data.reading_progress import EVERY, Advance, ignore, with_progress
from comigs_mlx.data.rows import parsed, read_rows
from comigs_mlx.data.splits import RawSplits, Sample
from comigs_mlx.errors import DataError, raise_all

ORDER = 20
"""This format is tried before text, which reads every other file and folder."""

ENDING = ".jsonl"
"""The ending of the files that are read."""


def matches(source: str) -> bool:
    """Tell whether `source` is a .jsonl file, or a folder with one named after a
    split.
    """
    if os.path.isfile(source):
        return source.lower().endswith(ENDING)
    return os.path.isdir(source) and bool(_files_of_splits(Path(source)))


def read(source: str, advance: Advance = ignore) -> RawSplits:
    """Read every row.

    Raises:
        DataError: If a row is invalid (the text names file and line of at most ten), or
            the folder lacks train.jsonl or holds text files of splits as well.
    """
    path = Path(source)
    files, notes = {"all": [path]}, []
    if path.is_dir():
        files = _split_files(path)
        notes = split_notes(path, files)
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    for name, paths in files.items():
        # All files of a split together: they must have the same columns.
        try:
            rows = read_rows(row for file in paths for row in _parsed(file, advance))
        except DataError as error:
            problems.append(str(error))
            continue
        splits[name] = rows.samples
        problems += rows.problems
        notes += [f"{name}: {note}" for note in rows.notes]
    raise_all(DataError, problems)
    return RawSplits(splits, notes)


def _files_of_splits(folder: Path) -> dict[str, list[Path]]:
    """Find the .jsonl files of splits; none where the folder cannot be listed."""
    try:
        return split_files(folder, (ENDING,))
    except DataError:
        return {}


def _split_files(folder: Path) -> dict[str, list[Path]]:
    text_files = split_files(folder, TEXT_ENDINGS)
    texts = [path.name for paths in text_files.values() for path in paths]
    if texts:
        raise DataError(
            f"{folder}: expected one format, found {', '.join(sorted(texts))} beside "
            ".jsonl files: keep one of the two"
        )
    files = split_files(folder, (ENDING,))
    if "train" not in files:
        others = ", ".join(p.name for p in list_dir(folder) if p.suffix == ENDING)
        raise DataError(f"{folder}: expected train{ENDING}, found only {others}")
    return files


def _parsed(path: Path, advance: Advance) -> Iterator[tuple[str, Any]]:
    """Yield place and content of every line that is not blank."""
    lines = read_utf8(path).split("\n")
    counted = with_progress(
        enumerate(lines, 1), f"lines of {path.name}", advance, len(lines), EVERY
    )
    for number, line in counted:
        if line.strip():
            yield f"{path}:{number}", parsed(line)
