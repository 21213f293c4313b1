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
from comigs_mlx.data.reading_progress import Advance, ignore, told
from comigs_mlx.data.splits import Sample, Source
from comigs_mlx.errors import DataError, raise_all

ORDER = 30
"""After jsonl, which claims the folders it reads."""


def matches(source: str) -> bool:
    """Whether `source` is a file or folder."""
    return os.path.exists(source)


def read(source: str, advance: Advance = ignore) -> Source:
    """Read the documents of a file or folder.

    Raises:
        DataError: If there is no text, or a file or folder cannot be read or is not
            UTF-8.
    """
    path = Path(source)
    if path.is_dir():
        named = split_files(path, TEXT_ENDINGS)
        if "train" in named:
            return _read_splits(path, named, advance)
        return _read_tree(path, advance)
    if path.suffix.lower() not in TEXT_ENDINGS:
        raise DataError(f"{path}: expected a file ending in {', '.join(TEXT_ENDINGS)}")
    samples, notes = _read_files([path], blocks, advance)
    return Source({"all": samples}, notes)


def blocks(text: str) -> list[str]:
    """Documents of `text`: runs of lines between blank lines, leading spaces kept."""
    parts = itertools.groupby(text.split("\n"), is_blank)
    return ["\n".join(lines) for blank, lines in parts if not blank]


def _read_splits(
    folder: Path, named: dict[str, list[Path]], advance: Advance
) -> Source:
    splits, notes = {}, split_notes(folder, named)
    for name, files in named.items():
        inside, skipped = _inside(files, folder)
        splits[name], empty = _read_files(inside, blocks, advance)
        notes += [f"{name}: {note}" for note in (*skipped, *empty)]
    return Source(splits, notes)


def _read_tree(folder: Path, advance: Advance) -> Source:
    found, left = _walk(folder)
    files, skipped = _inside(found, folder)
    if not files:
        problem = (
            f"{folder}: no text found: expected files ending in "
            f"{', '.join(TEXT_ENDINGS)}, or train.jsonl"
        )
        raise_all(DataError, [problem, *skipped, *left])
    samples, empty = _read_files(files, _whole, advance)
    notes = [*skipped, *empty, *left, *_stray_splits(files, folder)]
    return Source({"all": samples}, notes)


def _whole(text: str) -> list[str]:
    return [] if is_blank(text) else [text.strip("\n")]


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """Text files under `folder`, sorted, and notes on what else there is.

    Raises:
        DataError: Naming every folder that cannot be listed.
    """
    files: list[Path] = []
    links, hidden, problems = 0, 0, []

    def refuse(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        links += sum(not name.startswith(".") for name in linked)
        hidden += sum(name.startswith(".") for name in folders)
        hidden += sum(_is_hidden_text(name) for name in names)
        folders[:] = [n for n in folders if not n.startswith(".") and n not in linked]
        files += [here / name for name in names if not name.startswith(".")]
    raise_all(DataError, sorted(problems))
    texts = [p for p in files if p.suffix.lower() in TEXT_ENDINGS]
    found = [p for p in texts if p.is_file()]
    notes = [
        *_note(links, "linked folder"),
        *_note(hidden, "hidden file or folder"),
        *_note(len(texts) - len(found), "link or device", "that is no file"),
        *not_read(p for p in files if p.suffix.lower() not in TEXT_ENDINGS),
    ]
    return sorted(found), notes


def _is_hidden_text(name: str) -> bool:
    """Whether somebody may have hidden a text; macOS writes ._NAME beside each file."""
    hidden = name.startswith(".") and not name.startswith("._")
    return hidden and name.lower().endswith(TEXT_ENDINGS)


def _inside(files: Iterable[Path], folder: Path) -> tuple[list[Path], list[str]]:
    files = list(files)
    kept = [path for path in files if stays_inside(path, folder)]
    return kept, _note(len(files) - len(kept), "link", f"leaving {folder}")


def _read_files(
    files: list[Path], cut: Callable[[str], list[str]], advance: Advance
) -> tuple[list[Sample], list[str]]:
    """Samples of all `files`, each cut into documents, and a note on empty files."""
    samples: list[Sample] = []
    problems, empty = [], 0
    for path in told(files, "files", advance, len(files)):
        try:
            documents = cut(_unmarked(read_utf8(path)))
        except DataError as error:
            problems.append(str(error))
            continue
        empty += not documents
        samples += [{"text": document} for document in documents]
    raise_all(DataError, problems)
    return samples, _note(empty, "empty file")


def _unmarked(text: str) -> str:
    """The text without the byte order marks of files that were joined to it."""
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")


def _stray_splits(files: list[Path], folder: Path) -> list[str]:
    """Notes on what is named after a split, and is read as the rest is."""
    notes = [
        f"{path.name} is read as an ordinary document, for there is no "
        f"train{path.suffix} beside it"
        for path in files
        if path.parent == folder and path.stem.lower() in SPLIT_NAMES
    ]
    tops = {
        path.relative_to(folder).parts[0] for path in files if path.parent != folder
    }
    named = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if named:
        notes.append(
            f"the folders {', '.join(named)} are read together and divided anew: give "
            "train.txt, valid.txt and test.txt to divide them yourself"
        )
    return notes


def _note(count: int, what: str, where: str = "") -> list[str]:
    plural = " or ".join(f"{word}s" for word in what.split(" or "))
    words = f"skipped {count} {what if count == 1 else plural} {where}"
    return [words.strip()] if count else []
