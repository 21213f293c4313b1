"""Turns many texts into tokens at once, and tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from comigs_mlx.data.conversation import Ints, Tokenizer, inner_tokenizer
from comigs_mlx.data.reading_progress import Advance, ignore
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Say

CHUNK = 2_000_000
"""The characters that are tokenised at once, because the tokenizer holds some hundred
bytes for each token while it works.
"""

QUIET_SECONDS = 10.0
"""The least time between two sentences on how far tokenising is."""


class TokenisingProgress:
    """Tells now and then how many documents are tokenised."""

    def __init__(self, total: int, say: Say, advance: Advance = ignore) -> None:
        """Begin to count `total` documents.

        `say` receives a sentence at most every `QUIET_SECONDS`. `advance` is called at
        each count, and ends the work by raising.
        """
        self._total, self._say, self._advance = total, say, advance
        self._last = time.monotonic()
        advance("documents", 0, total)

    def __call__(self, done: int) -> None:
        """Record that `done` documents are tokenised."""
        self._advance("documents", done, self._total)
        now = time.monotonic()
        if now - self._last > QUIET_SECONDS and done < self._total:
            self._last = now
            self._say(f"tokenised {done:,} of {self._total:,} documents")


def chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield `texts` in order, in lists of about `CHUNK` characters; no text is cut."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def text_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> list[Ints]:
    """Return the tokens of each text, [T] int32, without a start token and with EOS.

    Raises:
        DataError: If the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no EOS token: choose another model")
    inner = inner_tokenizer(tokenizer)
    if _encodes_lists(inner):
        # All texts at once: the same code, on all cores (twice as fast on two).
        encoded = inner(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    else:
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    end = tokenizer.eos_token_id
    return [np.array([*tokens, end], np.int32) for tokens in encoded]


def _encodes_lists(inner: Any) -> bool:
    """Tell whether `inner(texts)` encodes each text as `inner.encode` does."""
    if not getattr(inner, "is_fast", False):
        return False
    from transformers import PreTrainedTokenizerBase

    stock = PreTrainedTokenizerBase
    return (type(inner).encode, type(inner).__call__) == (stock.encode, stock.__call__)
