"""Word documents (.docx): their text, without pictures and comments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.documents.child import parsed
from comigs_mlx.data.pieces import FileHead, Piece
from comigs_mlx.data.reading_options import Reading

ORDER = 64
KIND = "Word"
NEEDS = "documents"


def matches(file: FileHead) -> bool:
    """Tell whether the file is a zip with the parts of a Word document."""
    if not file.head.startswith(b"PK\x03\x04") or file.suffix == ".epub":
        return False
    return b"word/" in file.head or file.suffix == ".docx"


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the text.

    Raises:
        DataError: If the file is damaged, encrypted, too large, or takes too long.
    """
    del reading
    yield from parsed("docx", "Word documents", path)
