"""HTML as text, for saved pages, docx and EPUB; runs in the child."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

Found = tuple[str, str, int]
"""A piece: "document", its text and 0; "cut", what, and how many characters; "skipped",
what, and 0."""

UNREAD = "script,style,noscript,template,svg,iframe,object,select,button,head,math"
"""Elements that show no text of the page."""

AROUND = "nav,footer,aside"
"""Elements that stand around the text of a page."""

BLOCKS = (
    "p,h1,h2,h3,h4,h5,h6,blockquote,pre,ul,ol,dl,table,section,article,header,main,"
    "figure,hr,form,address,details"
)
"""Elements with a blank line before and after them."""

LINES = "div,li,tr,dt,dd,figcaption,caption,option,summary"
"""Elements that begin and end a line."""

BLOCK, LINE, CELL, SPACE = "\x01", "\x02", "\x03", "\x04"
"""What stands for a blank line, a line end, a tab, and a space that is kept."""

MARKS = re.compile(f"[{BLOCK}{LINE}{CELL}{SPACE}]")

CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)


def pieces(path: Path) -> Iterator[Found]:
    """Yield the text of a page, and what stood around it."""
    text, cut = plain(decoded(path.read_bytes()), AROUND)
    if cut:
        yield "cut", "menus and footers of pages", cut
    if text:
        yield "document", text, 0


def decoded(raw: bytes) -> str:
    """Decode a page as its byte order mark or it itself says, else as UTF-8, else as
    Windows-1252.
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    declared = CHARSET.search(raw[:4096])
    own = declared[1].decode("ascii", "ignore") if declared else "utf-8"
    for name in ("utf-8-sig", own):
        try:
            return raw.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("cp1252", "replace")


def plain(html: str, around: str = "") -> tuple[str, int]:
    """Return the text of `html`, and the number of characters that were left out.

    Args:
        html: The source of the page.
        around: A selector of elements that are left out besides `UNREAD`.
    """
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(MARKS.sub(" ", html))
    body = page.body
    if body is None:
        return "", 0
    # Detached, not destroyed: what is inside may be in the list as well.
    for node in body.css(UNREAD):
        node.decompose(recursive=False)
    cut = 0
    for node in body.css(around) if around else ():
        cut += len(node.text())
        node.decompose(recursive=False)
    for node in body.css("pre"):
        kept = node.text().replace("\n", LINE).replace(" ", SPACE)
        node.replace_with(f"{BLOCK}{kept}{BLOCK}")
    for selector, mark in ((BLOCKS, BLOCK), (LINES, LINE)):
        for node in body.css(selector):
            node.insert_before(mark)
            node.insert_after(mark)
    for node in body.css("br"):
        node.insert_after(LINE)
    for node in body.css("td,th"):
        node.insert_after(CELL)
    return _spaced(body.text(deep=True, separator="", strip=False)), cut


def _spaced(text: str) -> str:
    """Turn marks into spaces and line ends, and other white space into one space."""
    text = re.sub(r"[ \t\n\r\f\v]+", " ", text)
    for mark in (BLOCK, LINE, CELL):
        text = text.replace(f" {mark}", mark).replace(f"{mark} ", mark)
    text = re.sub(f"{CELL}+(?=[{LINE}{BLOCK}])", "", text).replace(CELL, "\t")
    # Of <div><div> one line end is shown, and so it is of several <br>.
    text = re.sub(
        f"[{LINE}{BLOCK}]+", lambda m: "\n\n" if BLOCK in m[0] else "\n", text
    )
    return text.replace(SPACE, " ").strip("\n ")
