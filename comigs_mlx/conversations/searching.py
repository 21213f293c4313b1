"""Finding words in conversations, whatever their case, accents apart or together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

AROUND = 40
"""Characters on each side of what was found that an excerpt shows."""


def words(query: str) -> list[str]:
    """The words of a query, in the form in which texts are searched."""
    return folded(query).split()


def folded(text: str) -> str:
    """A text without what a search does not look at: case, and how accents are kept."""
    if text.isascii():  # most are, and need a tenth of the time
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def met(wanted: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether each word stands in one of the texts."""
    every = folded("\n".join(texts))
    return all(word in every for word in wanted)


def excerpt(wanted: Sequence[str], texts: Sequence[str]) -> str:
    """A line from the first text in which a word stands; "" where none does."""
    for whole in texts:
        text = " ".join(unicodedata.normalize("NFKC", whole).split())
        # Case folding may change lengths: then the excerpt is a little off.
        found = text.casefold()
        places = [at for word in wanted if (at := found.find(word)) >= 0]
        if places:
            start, end = max(min(places) - AROUND, 0), min(places) + 2 * AROUND
            shown = text[start:end]
            return f"{'…' if start else ''}{shown}{'…' if end < len(text) else ''}"
    return ""
