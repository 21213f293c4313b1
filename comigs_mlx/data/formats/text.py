"""Plain text: a folder, or one file, of .txt and .md.

    FOLDER/train.txt [valid.txt test.txt]   documents separated by one blank line
    FOLDER/**/*.txt                         every file is one document, undivided
    FILE.txt                                its blank-line-separated blocks, undivided

Hidden files and folders, and links that leave the folder, are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from comigs_mlx.data.reading import TEXT_ENDINGS, read_utf8, split_files, stays_inside
from comigs_mlx.data.splits import Sample, Source
from comigs_mlx.errors import DataError, raise_all

ORDER = 30
"""After jsonl, which claims the folders it reads."""


def matches(source: str) -> bool:
    """Whether `source` is a file or folder."""
    return os.path.exists(source)


def read(source: str) -> Source:
    """Read the documents of a file or folder.

    Raises:
        DataError: If there is no text, or a file is not UTF-8.
    """
    path = Path(source)
    if path.is_dir():
        named = split_files(path, TEXT_ENDINGS)
        return _read_splits(path, named) if "train" in named else _read_tree(path)
    if path.suffix.lower() not in TEXT_ENDINGS:
        raise DataError(f"{path}: expected a file ending in {', '.join(TEXT_ENDINGS)}")
    samples, notes = _read_files([path], blocks)
    return Source({"all": samples}, notes)


def blocks(text: str) -> list[str]:
    """Documents of `text`: runs of lines between blank lines, leading spaces kept."""
    parts = (part.strip("\n") for part in re.split(r"\n{2,}", text))
    return [part for part in parts if part.strip()]


def _read_splits(folder: Path, named: dict[str, list[Path]]) -> Source:
    splits, notes = {}, []
    for name, files in named.items():
        inside, skipped = _inside(files, folder)
        splits[name], empty = _read_files(inside, blocks)
        notes += [*skipped, *empty]
    return Source(splits, notes)


def _read_tree(folder: Path) -> Source:
    files, skipped = _inside(_walk(folder), folder)
    if not files:
        raise DataError(
            f"{folder}: no text found: expected files ending in "
            f"{', '.join(TEXT_ENDINGS)}, or train.jsonl"
        )
    samples, empty = _read_files(files, _whole)
    return Source({"all": samples}, [*skipped, *empty, *_stray_splits(files, folder)])


def _whole(text: str) -> list[str]:
    return [text.strip("\n")] if text.strip() else []


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(p for p in found if p.suffix.lower() in TEXT_ENDINGS and p.is_file())


def _inside(files: Iterable[Path], folder: Path) -> tuple[list[Path], list[str]]:
    files = list(files)
    kept = [path for path in files if stays_inside(path, folder)]
    return kept, _note(len(files) - len(kept), "link", f"leaving {folder}")


def _read_files(
    files: list[Path], cut: Callable[[str], list[str]]
) -> tuple[list[Sample], list[str]]:
    """Samples of all `files`, each cut into documents, and a note on empty files."""
    samples: list[Sample] = []
    problems, empty = [], 0
    for path in files:
        try:
            documents = cut(read_utf8(path))
        except DataError as error:
            problems.append(str(error))
            continue
        empty += not documents
        samples += [{"text": document} for document in documents]
    raise_all(DataError, problems)
    return samples, _note(empty, "empty file")


def _stray_splits(files: list[Path], folder: Path) -> list[str]:
    return [
        f"{path.name} is read as an ordinary document, for there is no "
        f"train{path.suffix} beside it"
        for path in files
        if path.parent == folder and path.stem == "valid"
    ]


def _note(count: int, what: str, where: str = "") -> list[str]:
    words = f"skipped {count} {what}{'s' if count != 1 else ''} {where}"
    return [words.strip()] if count else []
