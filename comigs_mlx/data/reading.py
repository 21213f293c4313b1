"""Local files as text, with errors that name the file and the line."""

from __future__ import annotations

import os
from pathlib import Path

from comigs_mlx.data.splits import SPLITS
from comigs_mlx.errors import DataError

TEXT_ENDINGS = (".txt", ".md")
"""Endings of plain text files, whatever their case."""


def read_utf8(path: Path) -> str:
    r"""The text of `path`: UTF-8, byte order mark stripped, "\r\n" as "\n".

    Raises:
        DataError: If the file cannot be read, or names the line that is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        # The decoder may have skipped a byte order mark, which holds no line end.
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: expected UTF-8 text, found byte 0x{raw[error.start]:02x}: "
            "save the file as UTF-8"
        ) from error


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

    Raises:
        DataError: If there is a "validation" file but none called "valid".
    """
    files: dict[str, list[Path]] = {}
    for path in list_dir(folder):
        if path.suffix.lower() in endings and path.is_file():
            files.setdefault(path.stem, []).append(path)
    if "train" in files and "validation" in files and "valid" not in files:
        path = files["validation"][0]
        raise DataError(f"{path}: expected the name valid{path.suffix}: rename it")
    return {name: files[name] for name in SPLITS if name in files}


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether `path` lies in `folder` once every symbolic link is followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root
