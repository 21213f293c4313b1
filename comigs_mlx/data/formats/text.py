"""Plain text: a file is one document.

It is read as UTF-8, as UTF-16 with its mark, or as Windows-1252 (Latin-1), which is
said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.pieces import Document, FileHead, Piece, Remark
from comigs_mlx.data.reading import CONTROLS, is_blank, read_text
from comigs_mlx.data.reading_options import Reading

ORDER = 90
"""This format is tried last: most files are text of some kind."""

KIND = "text"

ENDINGS = (".txt", ".text", ".rst", ".org", ".adoc", ".tex", ".markdown", ".md")
"""The endings of files that are text, in small letters."""


def matches(file: FileHead) -> bool:
    """Tell whether the file has an ending of text, or none and looks like text."""
    if file.suffix or file.path.endswith("."):
        return file.suffix in ENDINGS
    return _looks_like_text(file)


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the text without the line ends around it.

    Raises:
        DataError: If the file cannot be read, or its encoding is not known.
    """
    del reading
    text, encoding = read_text(path)
    if is_blank(text):
        return
    if encoding:
        yield in_encoding(encoding, path)
    yield Document(text.strip("\n"), str(path))


def in_encoding(encoding: str, path: Path) -> Remark:
    """Remark on a file in another encoding than UTF-8."""
    return Remark(f"files in {encoding} instead of UTF-8", str(path))


def _looks_like_text(file: FileHead) -> bool:
    """Tell whether the beginning of the file is UTF-8 without control characters."""
    head = file.head
    if not head or len(head.translate(None, CONTROLS)) < len(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The last character may be cut.
        return file.size > len(head) and error.start > len(head) - 4
    return True
