"""How a long operation tells its caller, in plain sentences, what it does."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one plain sentence for the user."""


class Note(str):
    """What the user should know, among the sentences that only tell what happens.

    It reads `note: ...`; a program tells it by its class, never by how it begins.

    Attributes:
        sentence: The same without that beginning.
    """

    sentence: str

    def __new__(cls, sentence: str) -> Note:
        """Make the note of a sentence."""
        made = super().__new__(cls, f"note: {sentence}")
        made.sentence = sentence
        return made


def quiet(sentence: str) -> None:
    """A `Say` that says nothing."""
    del sentence
