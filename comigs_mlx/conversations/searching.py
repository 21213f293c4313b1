"""Finding words in conversations, whatever their case, accents apart or together."""

from __future__ import annotations

import unicodedata

from comigs_mlx.conversations.tree import Conversation

AROUND = 40
"""Characters on each side of what was found that an excerpt shows."""


def words(query: str) -> list[str]:
    """The words of a query, in the form in which texts are searched."""
    return folded(query).split()


def folded(text: str) -> str:
    """A text without what a search does not look at: case, and how accents are kept."""
    return unicodedata.normalize("NFKC", text).casefold()


def met(wanted: list[str], conversation: Conversation) -> bool:
    """Whether each word stands in the title or in a text of any branch."""
    texts = [conversation.title, *(turn.text for turn in conversation.turns.values())]
    every = "\n".join(map(folded, texts))
    return all(word in every for word in wanted)


def excerpt(wanted: list[str], conversation: Conversation) -> str:
    """A line from the first text in which a word stands; "" where none does."""
    for turn in conversation.turns.values():
        text = " ".join(unicodedata.normalize("NFKC", turn.text).split())
        # Case folding may change lengths: then the excerpt is a little off.
        places = [at for word in wanted if (at := text.casefold().find(word)) >= 0]
        if places:
            start, end = max(min(places) - AROUND, 0), min(places) + 2 * AROUND
            shown = text[start:end]
            return f"{'…' if start else ''}{shown}{'…' if end < len(text) else ''}"
    return ""
