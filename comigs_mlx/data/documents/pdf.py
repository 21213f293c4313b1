"""PDF through PDFium; runs in the child."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .archive import Refused
from .hypertext import Found

PAGES = 5000
"""The most pages of a document."""

REPEATED = 4
"""From so many pages on, a first or last line that most pages share is not text."""


SHORTEST = 3
"""The fewest lines of a page that may have such lines."""


def pieces(path: Path) -> Iterator[Found]:
    """Yield the text of all pages as one document.

    Raises:
        Refused: If it is damaged, encrypted, or has too many pages.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Refused("it is encrypted: save it without a password") from error
        raise Refused(f"damaged PDF: {error}") from error
    if len(document) > PAGES:
        raise Refused(f"{len(document):,} pages: the limit is {PAGES:,}")
    pages = [_page(document, number) for number in range(len(document))]
    pages, cut = without_headers(pages)
    if cut:
        yield "cut", "headers and footers of PDF pages", cut
    text = "\n\n".join(filter(None, map(reflowed, pages)))
    if text.strip():
        yield "document", text, 0
    else:
        yield "skipped", "PDFs without text, such as scans", 0


def _page(document: Any, number: int) -> list[str]:
    """Return the lines of a page; none of a page that is damaged."""
    import pypdfium2

    try:
        page = document[number]
        text = page.get_textpage().get_text_range()
    except pypdfium2.PdfiumError:
        return []
    # PDFium writes a hyphen at the end of a line as U+FFFE or U+0002.
    text = re.sub("[\ufffe\x02]", "-", text).replace("\0", "")
    return [line.rstrip() for line in re.split("\r\n|\r|\n", text)]


def without_headers(pages: list[list[str]]) -> tuple[list[list[str]], int]:
    """Take off first and last lines that most pages share but for their numbers.

    Pages of one or two lines, such as slides, are all text.

    Returns:
        The pages, and the number of characters that were taken off.
    """
    pages = [_trimmed(page) for page in pages]
    cut = 0
    for end in (0, -1):
        shapes = Counter(_shape(page[end]) for page in pages if len(page) >= SHORTEST)
        shape, count = shapes.most_common(1)[0] if shapes else ("", 0)
        if count < REPEATED or 2 * count <= len(pages):
            continue
        for page in pages:
            if len(page) >= SHORTEST and _shape(page[end]) == shape:
                cut += len(page.pop(end))
    return [_trimmed(page) for page in pages], cut


def _trimmed(lines: list[str]) -> list[str]:
    """Remove blank lines at both ends."""
    inked = [number for number, line in enumerate(lines) if line.strip()]
    return lines[inked[0] : inked[-1] + 1] if inked else []


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", line.strip())


def reflowed(lines: list[str]) -> str:
    """Join words and sentences that were broken at the end of a line."""
    text = "\n".join(lines)
    text = re.sub(r"(?<=[^\W\d_])-\n(?=[^\W\d_A-Z])", "", text)
    return re.sub(r"(?<=[^\s.:;!?])\n(?=[a-zà-öø-ÿ])", " ", text)
