"""Word documents (.docx) through Mammoth; runs in the child."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import archive
from .hypertext import Found, plain


def pieces(path: Path) -> Iterator[Found]:
    """Yield the text of a document, without pictures and comments.

    Raises:
        Refused: If it is damaged, encrypted, too large, or no document.
    """
    import mammoth

    with archive.opened(path) as opened:
        archive.check_xml(opened)
        if "[Content_Types].xml" not in opened.namelist():
            raise archive.Refused("no Word document: [Content_Types].xml is missing")
    with open(path, "rb") as file:
        html = mammoth.convert_to_html(file, convert_image=_no_image).value
    text, _ = plain(html)
    if text:
        yield "document", text, 0


def _no_image(image: Any) -> list[Any]:
    del image
    return []
