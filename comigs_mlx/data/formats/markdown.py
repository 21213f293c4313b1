"""Markdown, also of Obsidian: notes with front matter, links and embedded files.

The front matter is cut off, `[[note|text]]` becomes `text`, `![[file]]` goes. Code
stays as it is, and so does everything in files without any of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.formats.text import in_encoding
from comigs_mlx.data.pieces import Cut, Document, FileHead, Piece
from comigs_mlx.data.reading import is_blank, read_text
from comigs_mlx.data.reading_options import Reading

ORDER = 88
KIND = "markdown"

ENDINGS = (".md", ".markdown")
"""The endings of the files that are read."""

FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?>(?:[\w\"'][^\n:]*:|[ \t]|-[ \t]|#)[^\n]*\n|\n)*"
    r"(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
)
"""YAML between two lines of dashes at the very beginning; a line of dashes with prose
below it is a ruler, and stays.
"""

CODE = re.compile(
    r"^(?P<fence>[ \t]*(`{3,}|~{3,}))[^\n]*\n.*?(?:^[ \t]*\2[`~]*[ \t]*$|\Z)"
    r"|(?<!`)(?P<ticks>`++)[^\n]+?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE | re.DOTALL,
)
"""A fenced block of code, or code within a line."""

EMBED = re.compile(r"!\[\[[^\[\]\n]+\]\]")
LINK = re.compile(r"\[\[([^\[\]\n|]+)(?:\|([^\[\]\n]*))?\]\]")


def matches(file: FileHead) -> bool:
    """Tell whether the file's name says that it is Markdown."""
    return file.suffix in ENDINGS


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the note.

    Raises:
        DataError: If the file cannot be read, or its encoding is not known.
    """
    del reading
    text, encoding = read_text(path)
    if encoding:
        yield in_encoding(encoding, path)
    matter = FRONT_MATTER.match(text)
    if matter is not None:
        yield Cut("front matter", matter.end(), str(path))
        text = text[matter.end() :]
    text, dropped = plain(text)
    if dropped:
        yield Cut("embedded files", dropped, str(path))
    if not is_blank(text):
        yield Document(text.strip("\n"), str(path))


def plain(text: str) -> tuple[str, int]:
    """Return `text` without Obsidian's links and embeds, and the characters of the
    latter.
    """
    if "[[" not in text:
        return text, 0
    parts, dropped, at = [], 0, 0
    for code in CODE.finditer(text):
        prose, fewer = _plain_prose(text[at : code.start()])
        parts += [prose, code[0]]
        dropped, at = dropped + fewer, code.end()
    prose, fewer = _plain_prose(text[at:])
    return "".join([*parts, prose]), dropped + fewer


def _plain_prose(text: str) -> tuple[str, int]:
    rest = EMBED.sub("", text)
    return LINK.sub(_shown, rest), len(text) - len(rest)


def _shown(link: re.Match[str]) -> str:
    """Return the text that Obsidian shows for a link: its own, or where it leads."""
    return link[2] or link[1].replace("#^", " > ").replace("#", " > ").strip(" >")
