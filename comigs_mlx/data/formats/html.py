"""HTML: the text of a page, without menus, scripts and footers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.documents.child import parsed
from comigs_mlx.data.pieces import FileHead, Piece
from comigs_mlx.data.reading_options import Reading

ORDER = 72
KIND = "HTML"
NEEDS = "documents"

ENDINGS = (".html", ".htm", ".xhtml")
"""The endings of pages, in small letters."""


def matches(file: FileHead) -> bool:
    """Tell whether the file begins as a page does."""
    start = file.start[:1000].lower()
    if start.startswith(("<!doctype html", "<html")):
        return True
    is_xhtml = start.startswith("<?xml") and "<html" in start
    return is_xhtml or (file.suffix in ENDINGS and "<" in start)


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the text.

    Raises:
        DataError: If the file is damaged, encrypted, too large, or takes too long.
    """
    del reading
    yield from parsed("hypertext", "HTML pages", path)
