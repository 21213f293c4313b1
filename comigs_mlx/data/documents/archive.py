"""Zip archives and XML within limits, for docx and EPUB; runs in the child."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

MEMBERS = 10_000
"""The most members of an archive."""

PART, TOTAL = 100_000_000, 1_000_000_000
"""The most bytes that one text, and all members, may have once unpacked."""

RATIO, SMALL = 200, 1_000_000
"""How many times smaller than its content a member may be, from so many bytes on."""

DEPTH = 500
"""The most levels of XML."""

TEXTS = (".xml", ".rels", ".opf", ".ncx")
"""The endings of members that are parsed as XML."""


class Refused(Exception):
    """A document is not parsed; the text says why, after its path."""


def opened(path: Path) -> zipfile.ZipFile:
    """Open an archive after all that its directory tells was checked.

    Raises:
        Refused: If it is damaged, encrypted, or would be too large.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise Refused(f"damaged archive: {error}") from error
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise Refused(f"{len(members):,} members: the limit is {MEMBERS:,}")
    if (total := sum(member.file_size for member in members)) > TOTAL:
        raise Refused(f"{total:,} bytes unpacked: the limit is {TOTAL:,}")
    for member in members:
        ratio = member.file_size / max(member.compress_size, 1)
        if member.file_size > SMALL and ratio > RATIO:
            raise Refused(
                f"{member.filename} unpacks to {ratio:,.0f} times its size: the limit "
                f"is {RATIO}"
            )
        if member.flag_bits & 1:
            raise Refused("it is encrypted: save it without a password")
    return archive


def part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack a text of an archive.

    Raises:
        Refused: If there is no such text, it is damaged, or too large.
    """
    try:
        if (size := archive.getinfo(name).file_size) > PART:
            raise Refused(f"{name} has {size:,} bytes: the limit is {PART:,}")
        return archive.read(name)
    except KeyError as error:
        raise Refused(f"{name} is missing") from error
    # A damaged member fails in zlib, bz2 or lzma, each with errors of its own.
    except Exception as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{name} is damaged: {error}") from error


def check_xml(archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose XML declares entities, or is nested too deeply.

    Raises:
        Refused: If a text that a parser would read is not what such files hold.
    """
    for name in archive.namelist():
        if name.lower().endswith(TEXTS):
            check_text(name, part(archive, name))


def check_text(name: str, raw: bytes) -> None:
    """Refuse XML with a document type, or nested too deeply; nothing is expanded.

    Raises:
        Refused: If it is one of these, or no XML.
    """
    parser, depth = expat.ParserCreate(), 0

    def refuse(*declared: Any) -> None:
        del declared
        raise Refused(f"{name} declares a document type (DTD), which is not expanded")

    def start(*element: Any) -> None:
        del element
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise Refused(f"{name} is nested more than {DEPTH} levels deep")

    def end(*element: Any) -> None:
        del element
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise Refused(f"{name} is damaged: {error}") from error


def tree(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Parse a text of an archive, checked, as XML."""
    raw = part(archive, name)
    check_text(name, raw)
    return ElementTree.fromstring(raw)
