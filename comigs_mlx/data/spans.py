"""Finds which tokens hold which characters of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Encode = Callable[[str], Sequence[int]]
"""Turns a text into tokens, without adding special ones."""


class Places(Protocol):
    """Maps characters of a text to its tokens."""

    def before(self, at: int) -> tuple[int, bool]:
        """Count the tokens that end before character `at`; tell if one begins there.

        False says that the next token holds characters of both sides.
        """


class OffsetPlaces:
    """Places by the characters that a fast tokenizer reports for each token."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        """Take the `offsets` of the tokens, in characters of the whole text."""
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
    """Places by tokenising the text up to a character; the tokens that stay end there.

    It is for tokenizers that do not report the characters of their tokens.
    """

    def __init__(self, text: str, tokens: Sequence[int], encode: Encode) -> None:
        """Take `tokens`, those of the whole `text`."""
        self._text, self._tokens, self._encode = text, tokens, encode

    def before(self, at: int) -> tuple[int, bool]:
        """See `Places`."""
        part = self._encode(self._text[:at])
        count = common(part, self._tokens)
        return count, count == len(part)


def common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Count the items that two sequences share from their beginning on."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # comparing slices is fast, comparing items is not
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
