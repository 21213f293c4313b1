"""Which tokens hold which characters of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Encode = Callable[[str], Sequence[int]]
"""Tokens of a text, without special ones added."""


class Places(Protocol):
    """From characters of a text to its tokens."""

    def before(self, at: int) -> tuple[int, bool]:
        """How many tokens end before character `at`; whether the next begins there.

        False says that the next token holds characters of both sides.
        """


class OffsetPlaces:
    """By the characters that a fast tokenizer says each token was made of."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        """For tokens with `offsets`, in characters of the whole text."""
        pairs = np.array(offsets, np.int64).reshape(-1, 2)
        # Some tokenizers leave spaces out of their offsets: they belong to the token
        # that follows the one before. Parts of one character have the same offsets.
        self._ends = np.maximum.accumulate(pairs[:, 1])
        earlier = np.concatenate([np.zeros(1, np.int64), self._ends[:-1]])
        self._begins = np.minimum(pairs[:, 0], earlier)

    def before(self, at: int) -> tuple[int, bool]:
        """See `Places`."""
        count = int(np.searchsorted(self._ends, at, side="right"))
        exact = count == len(self._ends) or bool(self._begins[count] >= at)
        return count, exact


class PrefixPlaces:
    """By tokenising the text up to a character: the tokens that stay are before it.

    For tokenizers that do not say where their tokens come from.
    """

    def __init__(self, text: str, tokens: Sequence[int], encode: Encode) -> None:
        """For `tokens`, those of the whole `text`."""
        self._text, self._tokens, self._encode = text, tokens, encode

    def before(self, at: int) -> tuple[int, bool]:
        """See `Places`."""
        part = self._encode(self._text[:at])
        count = common(part, self._tokens)
        return count, count == len(part)


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences share from their beginning on."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is fast, comparing items is not
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
