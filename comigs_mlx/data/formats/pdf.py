"""PDF: the text of all pages, without repeated headers; scans have none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.documents.child import parsed
from comigs_mlx.data.pieces import FileHead, Piece
from comigs_mlx.data.reading_options import Reading

ORDER = 62
KIND = "PDF"
NEEDS = "documents"


def matches(file: FileHead) -> bool:
    """Tell whether the file begins as a PDF does; some have a few bytes before it."""
    return b"%PDF-" in file.head[:1024]


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the text.

    Raises:
        DataError: If the file is damaged, encrypted, too large, or takes too long.
    """
    del reading
    yield from parsed("pdf", "PDF files", path)
