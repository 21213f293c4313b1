"""Text as windows of tokens, to see what a model makes of it; and generic text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

from comigs_mlx.data.splits import load_split
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.prompts import check_text, encoded
from comigs_mlx.model.base import Base

LENGTH = 128
"""Tokens of a window; fewer where a model cannot read so many."""

MOST_TOKENS = 2048
"""What is read of a text at most: its beginning."""

LEAST_TOKENS = 8

GENERIC = ("demo:reference", "demo:code", "demo:journal")
"""The text that another text is compared with, in equal parts: nobody's own."""

GENERIC_CHARACTERS = 8_000
"""What is taken of it: about as much as `MOST_TOKENS`."""

Step = Callable[[int, int], None]
"""Told how many windows have been read, and of how many."""


def nothing(done: int, total: int) -> None:
    """A `Step` that does nothing."""


def of_text(base: Base, text: str, what: str) -> list[mx.array]:
    """The beginning of a text as windows `[1, tokens]`, each without context.

    Args:
        base: The base model, whose tokenizer is used.
        text: The text; `MOST_TOKENS` of it are taken.
        what: The name that errors give to the text, such as "notes.txt".

    Raises:
        ConfigError: If there is no text, or too little.
        ModelError: If the model does not know one of its tokens.
    """
    check_text(text, what)
    tokens = encoded(base.tokenizer, text)[:MOST_TOKENS]
    if len(tokens) < LEAST_TOKENS:
        raise ConfigError(
            f"{what} has {len(tokens)} tokens, too few to tell anything from: give at "
            f"least {LEAST_TOKENS}"
        )
    base.check_tokens(tokens, what)
    return cut(base, tokens)


def cut(base: Base, tokens: Sequence[int]) -> list[mx.array]:
    """Tokens as windows `[1, tokens]`, all but the last of one length."""
    size = min(LENGTH, base.context or LENGTH)
    starts = range(0, len(tokens), size)
    return [mx.array([list(tokens[start : start + size])]) for start in starts]


def generic(base: Base) -> list[mx.array]:
    """Generic text as windows: the beginnings of what the demo's three writers wrote.

    Raises:
        DataError: If this Python lacks it.
    """
    most = GENERIC_CHARACTERS // len(GENERIC)
    return [
        window
        for source in GENERIC
        for window in of_text(base, _beginning(source, most), source)
    ]


def _beginning(source: str, characters: int) -> str:
    samples, _ = load_split(source, "all")
    return "\n\n".join(sample["text"] for sample in samples)[:characters]


def watched(windows: Sequence[mx.array], step: Step) -> Iterator[mx.array]:
    """The windows one by one; `step` is called before each, and may raise."""
    for done, window in enumerate(windows):
        step(done, len(windows))
        yield window
    step(len(windows), len(windows))
