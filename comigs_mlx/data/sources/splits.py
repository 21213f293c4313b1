"""A folder that is divided already: files named after train, valid and test.

    FOLDER/train.txt [valid.txt test.txt]         documents separated by one blank line
    FOLDER/train.jsonl [valid.jsonl test.jsonl]   mlx-lm's rows

A line in which nothing can be seen is blank. Validation text may also stand in
validation.txt, val.txt or dev.txt, and so may its rows. train.jsonl alone is divided by
document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from comigs_mlx.data.columns import mapped
from comigs_mlx.data.formats import jsonl
from comigs_mlx.data.reading import (
    TEXT_ENDINGS,
    blocks,
    list_dir,
    read_utf8,
    split_files,
    split_notes,
    stays_inside,
    unmarked,
)
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import Advance, ignore, with_progress
from comigs_mlx.data.reading_report import counted, of_samples
from comigs_mlx.data.rows import read_rows
from comigs_mlx.data.splits import RawSplits, Sample
from comigs_mlx.errors import DataError, raise_all

ORDER = 20
"""This source is tried before files, which reads every other folder."""

ENDING = ".jsonl"
"""The ending of files of rows."""


def matches(source: str) -> bool:
    """Tell whether `source` is a folder with train.txt, train.md, or a .jsonl file that
    is named after a split.
    """
    if not os.path.isdir(source):
        return False
    return bool(_files(source, (ENDING,))) or "train" in _files(source, TEXT_ENDINGS)


def read(
    source: str, reading: Reading = DEFAULT, advance: Advance = ignore
) -> RawSplits:
    """Read all files of splits.

    Raises:
        DataError: If a file cannot be read or is not UTF-8, a row is invalid (the text
            names file and line of at most ten), or the folder lacks train.jsonl or
            holds text files of splits as well.
    """
    folder = Path(source)
    if split_files(folder, (ENDING,)):
        return _read_rows(folder, reading, advance)
    return _read_text(folder, advance)


def _files(source: str, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """Find the files of splits; none where the folder cannot be listed."""
    try:
        return split_files(Path(source), endings)
    except DataError:
        return {}


def _read_rows(folder: Path, reading: Reading, advance: Advance) -> RawSplits:
    files = _row_files(folder)
    notes = split_notes(folder, files)
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    for name, paths in files.items():
        # All files of a split together: they must have the same columns.
        try:
            found = (row for file in paths for row in jsonl.lines(file, advance))
            rows = read_rows(mapped(found, reading))
        except DataError as error:
            problems.append(str(error))
            continue
        splits[name] = rows.samples
        problems += rows.problems
        notes += [f"{name}: {note}" for note in rows.notes]
    raise_all(DataError, problems)
    return _reported(jsonl.KIND, splits, files, notes)


def _row_files(folder: Path) -> dict[str, list[Path]]:
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


def _read_text(folder: Path, advance: Advance) -> RawSplits:
    files = split_files(folder, TEXT_ENDINGS)
    splits, notes = {}, split_notes(folder, files)
    for name, paths in files.items():
        inside = [path for path in paths if stays_inside(path, folder)]
        splits[name], empty = _documents(inside, advance)
        skipped = {f"links leaving {folder}": len(paths) - len(inside)}
        skipped["empty files"] = empty
        notes += [
            f"{name}: skipped {counted(count, what)}"
            for what, count in skipped.items()
            if count
        ]
    return _reported("text", splits, files, notes)


def _documents(files: list[Path], advance: Advance) -> tuple[list[Sample], int]:
    """Read the blocks of all `files`, and count the files without any."""
    samples: list[Sample] = []
    problems, empty = [], 0
    for path in with_progress(files, "files", advance, len(files)):
        try:
            documents = blocks(unmarked(read_utf8(path)))
        except DataError as error:
            problems.append(str(error))
            continue
        empty += not documents
        samples += [{"text": document} for document in documents]
    raise_all(DataError, problems)
    return samples, empty


def _reported(
    kind: str,
    splits: dict[str, list[Sample]],
    files: dict[str, list[Path]],
    notes: list[str],
) -> RawSplits:
    every: Iterable[Sample] = (sample for part in splits.values() for sample in part)
    names = [str(path) for paths in files.values() for path in paths]
    return RawSplits(splits, notes, of_samples(kind, every, names))
