"""Local files as text, with errors that name the file and the line."""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from comigs_mlx.data.splits import SPLITS
from comigs_mlx.errors import DataError

TEXT_ENDINGS = (".txt", ".md")
"""Endings of plain text files, whatever their case."""


SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""What files and datasets call a split -> ours."""

LINE_END = re.compile("\r\r\n|\r\n|\r")
"""Line ends of Windows, of a Windows file converted once more, and of the old Mac."""

BLANK = re.compile(
    r"[\s\u00ad\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0]*"
)
"""Nothing to see: spaces of all kinds, and characters without width or ink."""

NAMES_SHOWN = 5
"""Files that are named in a note; the others are counted."""


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in `text`."""
    return BLANK.fullmatch(text) is not None


def read_utf8(path: Path) -> str:
    r"""The text of `path`: UTF-8, byte order mark stripped, all line ends as "\n".

    Raises:
        DataError: If the file cannot be read, or names the line that is not UTF-8 text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder may have skipped a byte order mark, which holds no line end.
        line = _line(raw[: error.start].decode("latin-1"))
        raise DataError(
            f"{path}:{line}: expected UTF-8 text, found byte 0x{raw[error.start]:02x}: "
            "save the file as UTF-8"
        ) from error
    # Half of the bytes of UTF-16, and common in binary files: no text holds any.
    if (at := text.find("\0")) >= 0:
        raise DataError(
            f"{path}:{_line(text[:at])}: expected UTF-8 text, found a zero byte, as in "
            "UTF-16 and in files that are no text: save the file as UTF-8"
        )
    return LINE_END.sub("\n", text)


def _line(before: str) -> int:
    """The number of the line that begins in `before` last."""
    return LINE_END.sub("\n", before).count("\n") + 1


def list_dir(folder: Path) -> list[Path]:
    """What `folder` holds, in sorted order.

    Raises:
        DataError: If it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def split_files(folder: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files of `folder` that are named after a split, by split, in sorted order.

    Args:
        folder: The folder to look into (not into its subfolders).
        endings: Accepted file endings, such as (".txt", ".md").
    """
    files: dict[str, list[Path]] = {}
    for path in list_dir(folder):
        name = SPLIT_NAMES.get(path.stem.lower())
        if name and path.suffix.lower() in endings and path.is_file():
            files.setdefault(name, []).append(path)
    return {name: files[name] for name in SPLITS if name in files}


def split_notes(folder: Path, files: Mapping[str, list[Path]]) -> list[str]:
    """What a user should know of the files of splits, and of those beside them."""
    notes = []
    for name, paths in files.items():
        if len({path.stem.lower() for path in paths}) > 1:
            notes.append(f"{name} is read from {_listed(paths)} together")
    known = {path for paths in files.values() for path in paths}
    others = [p for p in list_dir(folder) if p not in known and _may_hold_text(p)]
    if others:
        notes.append(
            f"not read: {_listed(others)} in {folder}, for they are not named train, "
            "valid or test"
        )
    return notes


def not_read(paths: Iterable[Path]) -> list[str]:
    """A note on files that may hold text, by their endings; none without any."""
    found = Counter(p.suffix.lower() or p.name for p in paths if _may_hold_text(p))
    most = [f"{count} {ending}" for ending, count in found.most_common(NAMES_SHOWN)]
    more = sum(found.values()) - sum(n for _, n in found.most_common(NAMES_SHOWN))
    listed = ", ".join([*most, *([f"{more} more"] if more else [])])
    files = "file" if sum(found.values()) == 1 else "files"
    ours = ", ".join(TEXT_ENDINGS)
    return [f"not read: {listed} {files} (only {ours} are)"] if found else []


def _may_hold_text(path: Path) -> bool:
    """Whether leaving `path` out may be a loss: no picture, sound or hidden file."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return not path.name.startswith(".") and not kind.startswith(
        ("image/", "audio/", "video/", "font/")
    )


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name + "/" * path.is_dir() for path in paths]
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether `path` lies in `folder` once every symbolic link is followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root
