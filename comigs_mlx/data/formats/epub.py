"""EPUB books: every page, which is mostly a chapter, is a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.documents.child import parsed
from comigs_mlx.data.pieces import FileHead, Piece
from comigs_mlx.data.reading_options import Reading

ORDER = 63
KIND = "book"
NEEDS = "documents"


def matches(file: FileHead) -> bool:
    """Tell whether the file is a zip that says that it is a book."""
    is_zip = file.head.startswith(b"PK\x03\x04")
    return is_zip and (
        b"application/epub+zip" in file.head[:200] or file.suffix == ".epub"
    )


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the chapters.

    Raises:
        DataError: If the file is damaged, encrypted, too large, or takes too long.
    """
    del reading
    yield from parsed("epub", "EPUB books", path)
