"""mlx-lm's JSONL: a folder with train.jsonl [valid.jsonl test.jsonl], or one file.

Every line is an object with the columns of `comigs_mlx.data.rows`. One file alone, or
train.jsonl alone, is divided by document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.reading import TEXT_ENDINGS, list_dir, read_utf8, split_files
from comigs_mlx.data.rows import read_rows
from comigs_mlx.data.splits import SPLITS, Sample, Source
from comigs_mlx.errors import DataError, raise_all

ORDER = 20
"""Before text, which claims every other file and folder."""

ENDING = ".jsonl"
"""Ending of the files that are read."""


def matches(source: str) -> bool:
    """Whether `source` is a .jsonl file, or a folder with one named after a split."""
    if os.path.isfile(source):
        return source.lower().endswith(ENDING)
    names = [f"{name}{ENDING}" for name in (*SPLITS, "validation")]
    return any(os.path.isfile(os.path.join(source, name)) for name in names)


def read(source: str) -> Source:
    """Read every row.

    Raises:
        DataError: Naming file and line of each invalid row, at most ten of them; or if
            the folder lacks train.jsonl, or holds text files of splits as well.
    """
    path = Path(source)
    files = _split_files(path) if path.is_dir() else {"all": path}
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    for name, file in files.items():
        splits[name], found = _read_file(file)
        problems += found
    raise_all(DataError, problems)
    return Source(splits)


def _split_files(folder: Path) -> dict[str, Path]:
    texts = [
        path.name
        for path in list_dir(folder)
        if path.suffix.lower() in TEXT_ENDINGS and path.stem in SPLITS
    ]
    if texts:
        raise DataError(
            f"{folder}: expected one format, found {', '.join(texts)} beside .jsonl "
            "files: keep one of the two"
        )
    files = split_files(folder, (ENDING,))
    if "train" not in files:
        found = ", ".join(p.name for p in list_dir(folder) if p.suffix == ENDING)
        raise DataError(f"{folder}: expected train{ENDING}, found only {found}")
    return {name: paths[0] for name, paths in files.items()}


def _read_file(path: Path) -> tuple[list[Sample], list[str]]:
    try:
        lines = read_utf8(path).split("\n")
    except DataError as error:
        return [], [str(error)]
    return read_rows(_parsed(path, lines))


def _parsed(path: Path, lines: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield place and content of every line that is not blank."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", "too deeply nested")
            problem = DataError(f"expected one JSON object: {reason}")
            yield f"{path}:{number}", problem
