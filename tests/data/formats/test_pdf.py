from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comigs_mlx.data.documents.pdf import reflowed, without_headers
from comigs_mlx.data.formats.pdf import read
from comigs_mlx.data.pieces import Cut, Document, Skipped
from comigs_mlx.data.reading_options import DEFAULT
from tests.data.documents import made

SAMPLES = {"a.pdf": made.pdf([["Hello there,", "world."], ["Second page."]])}


def test_pages_lines_and_headers(write: Callable[..., Path]) -> None:
    pages = [["My Book", f"Text of {n} that", "goes on.", f"- {n} -"] for n in "abcd"]
    numbered = [[*page[:-1], f"- {n} -"] for n, page in enumerate(pages)]
    path = write({"a.pdf": made.pdf(numbered)}) / "a.pdf"
    cut, document = read(path, DEFAULT)
    removed = 4 * len("My Book") + 4 * len("- 1 -")
    assert cut == Cut("headers and footers of PDF pages", removed, str(path))
    texts = [f"Text of {n} that goes on." for n in "abcd"]
    assert document == Document("\n\n".join(texts), str(path))


def test_a_scan_has_no_text(write: Callable[..., Path]) -> None:
    path = write({"a.pdf": made.pdf([[], []])}) / "a.pdf"
    assert list(read(path, DEFAULT)) == [
        Skipped("PDFs without text, such as scans", str(path))
    ]


def test_words_and_sentences_are_joined_and_paragraphs_stay() -> None:
    lines = ["A hyphen-", "ated word and", "more.", "Next line", "Proper-", "Noun"]
    assert reflowed(lines) == "A hyphenated word and more.\nNext line\nProper-\nNoun"
    few = [["Title", "a"], ["Title", "b"], ["Title", "c"]]
    assert without_headers(few) == (few, 0)
    slides = [["One", "and the same."]] * 5
    assert without_headers(slides) == (slides, 0)
    shared = [["Title", f"page {n}", "more"] for n in "abcd"] + slides
    pages, cut = without_headers([["Title", "x"], *shared, *shared])
    assert cut == 0
    assert pages[1] == shared[0]
