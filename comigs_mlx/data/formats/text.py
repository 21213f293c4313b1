"""Plain text: a folder, or one file, of .txt and .md.

    FOLDER/train.txt [valid.txt test.txt]   documents separated by one blank line
    FOLDER/**/*.txt                         every file is one document, undivided
    FILE.txt                                its blank-line-separated blocks, undivided

A line in which nothing can be seen is blank. Validation text may also stand in
validation.txt, val.txt or dev.txt. Hidden files and folders, linked folders, and links
that leave the folder are skipped, with a note.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from comigs_mlx.data.reading import (
    SPLIT_NAMES,
    TEXT_ENDINGS,
    is_blank,
    not_read,
    read_utf8,
    split_files,
    split_notes,
    stays_inside,
)
from comigs_mlx.data.reading_progress import Advance, ignore, with_progress
from comigs_mlx.data.splits import RawSplits, Sample
from comigs_mlx.errors import DataError, raise_all

ORDER = 30
"""This format is tried after jsonl, which reads some folders that exist."""


def matches(source: str) -> bool:
    """Tell whether `source` is a file or folder."""
    return os.path.exists(source)


def read(source: str, advance: Advance = ignore) -> RawSplits:
    """Read the documents of a file or folder.

    Raises:
        DataError: If there is no text, or a file or folder cannot be read or is not
            UTF-8.
    """
    path = Path(source)
    if path.is_dir():
        files = split_files(path, TEXT_ENDINGS)
        if "train" in files:
            return _read_splits(path, files, advance)
        return _read_tree(path, advance)
    if path.suffix.lower() not in TEXT_ENDINGS:
        raise DataError(f"{path}: expected a file ending in {', '.join(TEXT_ENDINGS)}")
    samples, notes = _read_files([path], blocks, advance)
    return RawSplits({"all": samples}, notes)


def blocks(text: str) -> list[str]:
    """Split `text` into documents at blank lines; leading spaces are kept."""
    parts = itertools.groupby(text.split("\n"), is_blank)
    return ["\n".join(lines) for blank, lines in parts if not blank]


def _read_splits(
    folder: Path, files: dict[str, list[Path]], advance: Advance
) -> RawSplits:
    splits, notes = {}, split_notes(folder, files)
    for name, paths in files.items():
        inside, skipped = _inside(paths, folder)
        splits[name], empty = _read_files(inside, blocks, advance)
        notes += [f"{name}: {note}" for note in (*skipped, *empty)]
    return RawSplits(splits, notes)


def _read_tree(folder: Path, advance: Advance) -> RawSplits:
    paths, unread = _walk(folder)
    files, skipped = _inside(paths, folder)
    if not files:
        problem = (
            f"{folder}: no text found: expected files ending in "
            f"{', '.join(TEXT_ENDINGS)}, or train.jsonl"
        )
        raise_all(DataError, [problem, *skipped, *unread])
    samples, empty = _read_files(files, _undivided, advance)
    notes = [*skipped, *empty, *unread, *_stray_splits(files, folder)]
    return RawSplits({"all": samples}, notes)


def _undivided(text: str) -> list[str]:
    return [] if is_blank(text) else [text.strip("\n")]


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """List the text files under `folder`, sorted, with notes on what else there is.

    Raises:
        DataError: If a folder cannot be listed; the text names every such folder.
    """
    files: list[Path] = []
    links, hidden, problems = 0, 0, []

    def refuse(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse):
        directory = Path(root)
        linked = [name for name in folders if (directory / name).is_symlink()]
        links += sum(not name.startswith(".") for name in linked)
        hidden += sum(name.startswith(".") for name in folders)
        hidden += sum(_is_hidden_text(name) for name in names)
        folders[:] = [n for n in folders if not n.startswith(".") and n not in linked]
        files += [directory / name for name in names if not name.startswith(".")]
    raise_all(DataError, sorted(problems))
    texts = [p for p in files if p.suffix.lower() in TEXT_ENDINGS]
    regular = [p for p in texts if p.is_file()]
    notes = [
        *_note(links, "linked folder"),
        *_note(hidden, "hidden file or folder"),
        *_note(len(texts) - len(regular), "link or device", "that is no file"),
        *not_read(p for p in files if p.suffix.lower() not in TEXT_ENDINGS),
    ]
    return sorted(regular), notes


def _is_hidden_text(name: str) -> bool:
    """Tell whether a text was hidden by hand; macOS writes ._NAME beside each file."""
    hidden = name.startswith(".") and not name.startswith("._")
    return hidden and name.lower().endswith(TEXT_ENDINGS)


def _inside(files: Iterable[Path], folder: Path) -> tuple[list[Path], list[str]]:
    files = list(files)
    inside = [path for path in files if stays_inside(path, folder)]
    return inside, _note(len(files) - len(inside), "link", f"leaving {folder}")


def _read_files(
    files: list[Path], divide: Callable[[str], list[str]], advance: Advance
) -> tuple[list[Sample], list[str]]:
    """Read all `files`, divide each into documents, and note the empty files."""
    samples: list[Sample] = []
    problems, empty = [], 0
    for path in with_progress(files, "files", advance, len(files)):
        try:
            documents = divide(_unmarked(read_utf8(path)))
        except DataError as error:
            problems.append(str(error))
            continue
        empty += not documents
        samples += [{"text": document} for document in documents]
    raise_all(DataError, problems)
    return samples, _note(empty, "empty file")


def _unmarked(text: str) -> str:
    """Remove the byte order marks of files that were joined to `text`."""
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")


def _stray_splits(files: list[Path], folder: Path) -> list[str]:
    """Note the files and folders that are named after a split but read as the rest."""
    notes = [
        f"{path.name} is read as an ordinary document, for there is no "
        f"train{path.suffix} beside it"
        for path in files
        if path.parent == folder and path.stem.lower() in SPLIT_NAMES
    ]
    tops = {
        path.relative_to(folder).parts[0] for path in files if path.parent != folder
    }
    stray = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if stray:
        notes.append(
            f"the folders {', '.join(stray)} are read together and divided anew: give "
            "train.txt, valid.txt and test.txt to divide them yourself"
        )
    return notes


def _note(count: int, noun: str, where: str = "") -> list[str]:
    plural = " or ".join(f"{word}s" for word in noun.split(" or "))
    words = f"skipped {count} {noun if count == 1 else plural} {where}"
    return [words.strip()] if count else []
