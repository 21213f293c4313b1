"""EPUB books: a zip of pages, read in the order of the book; runs in the child."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from .archive import Refused, opened, part, tree
from .hypertext import Found, decoded, plain

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def pieces(path: Path) -> Iterator[Found]:
    """Yield a document for each page of the book, which is mostly a chapter.

    Raises:
        Refused: If it is damaged, protected, too large, or no book.
    """
    with opened(path) as archive:
        names = spine(archive)
        protected = _protected(archive)
        if any(name in protected for name in names):
            raise Refused("it is protected (DRM): only its own reader can open it")
        for name in names:
            text, _ = plain(decoded(part(archive, name)), "nav")
            if text:
                yield "document", text, 0


def spine(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of a book's pages in their order.

    Raises:
        Refused: If the book does not say so.
    """
    root = tree(archive, CONTAINER).find(".//{*}rootfile")
    package = "" if root is None else root.get("full-path", "")
    opf = tree(archive, package)
    folder = posixpath.dirname(package)
    items = {
        item.get("id"): posixpath.normpath(
            posixpath.join(folder, unquote(item.get("href", "")))
        )
        for item in opf.iterfind(".//{*}manifest/{*}item")
        if item.get("media-type") in PAGES
    }
    references = [ref.get("idref") for ref in opf.iterfind(".//{*}spine/{*}itemref")]
    names = [items[name] for name in dict.fromkeys(references) if name in items]
    if not names:
        raise Refused(f"no book: {package} lists no pages")
    return names


def _protected(archive: zipfile.ZipFile) -> set[str]:
    """Return the names of members that are encrypted; fonts often are."""
    if ENCRYPTION not in archive.namelist():
        return set()
    references = tree(archive, ENCRYPTION).iterfind(".//{*}CipherReference")
    return {unquote(reference.get("URI", "")) for reference in references}
