from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comigs_mlx.data.formats.docx import read
from comigs_mlx.data.pieces import Document
from comigs_mlx.data.reading_options import DEFAULT
from tests.data.documents import made

SAMPLES = {"a.docx": made.docx(["Hello.", "Zwei Grüße."]), "b.bin": made.docx(["x"])}


def test_paragraphs(write: Callable[..., Path]) -> None:
    path = write({"a.docx": SAMPLES["a.docx"]}) / "a.docx"
    assert list(read(path, DEFAULT)) == [Document("Hello.\n\nZwei Grüße.", str(path))]
