"""Local files as text, with errors that name the file and the line."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from comigs_mlx.data.splits import SPLITS
from comigs_mlx.errors import DataError

TEXT_ENDINGS = (".txt", ".md")
"""The endings of plain text files, in any case."""


SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""Maps what files and datasets call a split to its name here."""

LINE_END = re.compile("\r\r\n|\r\n|\r")
"""The line ends of Windows, of a Windows file converted once more, and of the old Mac.
"""

BLANK = re.compile(
    r"[\s\u00ad\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0]*"
)
"""Text that shows nothing: spaces of all kinds, and characters without width or ink."""

UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
UTF32 = codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE

ASCII = bytes(range(128))
INK = bytes(range(33, 127))
CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")) + b"\x7f"
"""The bytes that no text holds, whatever its encoding."""

NAMES_SHOWN = 5
"""The most files that a note names; the others are counted."""


def blocks(text: str) -> list[str]:
    """Split `text` into documents at blank lines; leading spaces are kept."""
    parts = itertools.groupby(text.split("\n"), is_blank)
    return ["\n".join(lines) for blank, lines in parts if not blank]


def unmarked(text: str) -> str:
    """Remove the byte order marks of files that were joined to `text`."""
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")


def is_blank(text: str) -> bool:
    """Tell whether `text` shows nothing."""
    return BLANK.fullmatch(text) is not None


def read_utf8(path: Path) -> str:
    r"""Read `path` as UTF-8, without byte order mark and with all line ends as "\n".

    Raises:
        DataError: If the file cannot be read or is not UTF-8; the text names the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return LINE_END.sub("\n", checked_utf8(raw, str(path)))


def checked_utf8(raw: bytes, place: str) -> str:
    """Decode UTF-8 without its byte order mark.

    Raises:
        DataError: If it is not UTF-8; the text begins with `place` and the line.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder may have skipped a byte order mark, which holds no line end.
        line = _line(raw[: error.start].decode("latin-1"))
        raise DataError(
            f"{place}:{line}: expected UTF-8 text, found byte "
            f"0x{raw[error.start]:02x}: save the file as UTF-8"
        ) from error
    # Half of the bytes of UTF-16, and common in binary files: no text holds any.
    if (at := text.find("\0")) >= 0:
        raise DataError(
            f"{place}:{_line(text[:at])}: expected UTF-8 text, found a zero byte, as "
            "in UTF-16 and in files that are no text: save the file as UTF-8"
        )
    return text


def read_text(path: Path) -> tuple[str, str]:
    r"""Read `path` as UTF-8, as UTF-16 with its mark, or as Windows-1252.

    Returns:
        The text without byte order marks and with all line ends as "\n", and the
        encoding that it was in; "" for UTF-8.

    Raises:
        DataError: If the file cannot be read or is none of these; the text names the
            line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    text, encoding = decoded(raw, str(path))
    return unmarked(LINE_END.sub("\n", text)), encoding


def decoded(raw: bytes, place: str) -> tuple[str, str]:
    """Decode text as `read_text` does, with line ends and marks as they are.

    Raises:
        DataError: If the encoding is not known; the text begins with `place` and line.
    """
    if raw.startswith(UTF16) and not raw.startswith(UTF32):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-16"), "UTF-16"
    try:
        return checked_utf8(raw, place), ""
    except DataError:
        if not _is_windows_1252(raw):
            raise
    return raw.decode("cp1252"), "Windows-1252"


def _is_windows_1252(raw: bytes) -> bool:
    """Tell whether bytes that are no UTF-8 are text of a western European language.

    Text in UTF-8 with a damaged place, other alphabets and binary files are not: what
    they would become nobody could read.
    """
    lenient = raw.decode("utf-8", "replace")
    whole = sum(letter > "\x7f" for letter in lenient) - lenient.count("\ufffd")
    high = len(raw.translate(None, ASCII))
    inked = len(raw) - len(raw.translate(None, INK))
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return (
        whole <= lenient.count("\ufffd")
        and 3 * high <= inked + high
        and not (len(raw) - len(raw.translate(None, CONTROLS)))
    )


def _line(before: str) -> int:
    """Return the number of the line in which `before` ends."""
    return LINE_END.sub("\n", before).count("\n") + 1


def list_dir(folder: Path) -> list[Path]:
    """List what `folder` holds, in sorted order.

    Raises:
        DataError: If the folder cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def split_files(folder: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """Find the files of `folder` that are named after a split, sorted, by split.

    Args:
        folder: The folder to look into (not into its subfolders).
        endings: The accepted file endings, such as (".txt", ".md").
    """
    files: dict[str, list[Path]] = {}
    for path in list_dir(folder):
        name = SPLIT_NAMES.get(path.stem.lower())
        if name and path.suffix.lower() in endings and path.is_file():
            files.setdefault(name, []).append(path)
    return {name: files[name] for name in SPLITS if name in files}


def split_notes(folder: Path, files: Mapping[str, list[Path]]) -> list[str]:
    """Tell the user about the files of splits and about those beside them."""
    notes = []
    for name, paths in files.items():
        if len({path.stem.lower() for path in paths}) > 1:
            notes.append(f"{name} is read from {_listed(paths)} together")
    used = {path for paths in files.values() for path in paths}
    unused = [p for p in list_dir(folder) if p not in used and _may_hold_text(p)]
    if unused:
        notes.append(
            f"not read: {_listed(unused)} in {folder}, for they are not named train, "
            "valid or test"
        )
    return notes


def not_read(paths: Iterable[Path]) -> list[str]:
    """Write a note on files whose endings say that they may hold text, if there are
    any.
    """
    counts = Counter(p.suffix.lower() or p.name for p in paths if _may_hold_text(p))
    shown = [f"{count} {ending}" for ending, count in counts.most_common(NAMES_SHOWN)]
    hidden = sum(counts.values()) - sum(n for _, n in counts.most_common(NAMES_SHOWN))
    listed = ", ".join([*shown, *([f"{hidden} more"] if hidden else [])])
    files = "file" if sum(counts.values()) == 1 else "files"
    return [f"not read: {listed} {files} (no format knows them)"] if counts else []


def _may_hold_text(path: Path) -> bool:
    """Tell whether `path` may hold text: no picture, sound, font or hidden file."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return not path.name.startswith(".") and not kind.startswith(
        ("image/", "audio/", "video/", "font/")
    )


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name + "/" * path.is_dir() for path in paths]
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def stays_inside(path: Path, folder: Path) -> bool:
    """Tell whether `path` lies in `folder` once every symbolic link is followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root
