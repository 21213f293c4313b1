"""How a long operation tells its caller, in plain sentences, what it does."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one plain sentence for the user."""


def quiet(sentence: str) -> None:
    """A `Say` that says nothing."""
    del sentence
