from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comigs_mlx.data.formats.epub import read
from comigs_mlx.data.pieces import Document
from comigs_mlx.data.reading_options import DEFAULT
from tests.data.documents import made

SAMPLES = {"book.epub": made.epub(["<h1>One</h1><p>First.</p>", "<p>Second.</p>"])}


def test_chapters_come_in_the_order_of_the_book(write: Callable[..., Path]) -> None:
    path = write(SAMPLES) / "book.epub"
    assert list(read(path, DEFAULT)) == [
        Document("One\n\nFirst.", str(path)),
        Document("Second.", str(path)),
    ]
