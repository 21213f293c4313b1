"""What a model has read, kept for the next turn of the same conversation.

Keys and values depend on everything that speaks: so they are used again only where
the base, the experts' values and the selection are the same, and as far as the tokens
are. mlx-lm's `LRUPromptCache` finds the longest such beginning and forgets what was
used longest ago. It hands out copies, which share their memory with what is kept until
they are written to; what it keeps is bounded here such that this costs no more than
`MOST_BYTES`, or than one conversation where that is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MOST_BYTES = 2**29
"""Memory of all that is kept, where it is more than one conversation."""

CONVERSATIONS = 8
"""How many are kept; each is a walk through its tokens to find."""


class PromptCache:
    """mlx-lm prompt caches, with the tokens that they have read and for whom."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: Any = None

    def take(
        self, speaker: Any, prompt: Sequence[int], model: Any
    ) -> tuple[list[Any], int]:
        """A cache that has read the first tokens of a prompt, and how many.

        It may be written to: what is kept does not change by it.

        Args:
            speaker: Everything that keys and values depend on; hashable.
            prompt: At least its last token is left to be read.
            model: For a new cache, where nothing that is kept is of use.
        """
        from mlx_lm.models.cache import make_prompt_cache

        if self._kept is not None:
            cache, rest = self._kept.fetch_nearest_cache(speaker, list(prompt))
            shared = len(prompt) - max(1, len(rest))
            if cache is not None and _cut(cache, 0 if rest else 1, shared):
                self._make_room(cache)
                return cache, shared
        return make_prompt_cache(model), 0

    def keep(self, speaker: Any, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a cache under what it says it has read.

        A cache that has read nothing, or whose layers disagree, is not kept: it was
        left in the middle of something.

        Args:
            speaker: As for `take`.
            tokens: What it was given, from the first token on; it may have read only
                the first of them, as when it was stopped.
            cache: No computation in it has failed. It must not be written to any more.
        """
        from mlx_lm.models.cache import LRUPromptCache

        read = tokens_read(cache)
        if read is not None and read > len(tokens):
            read = len(tokens) if _cut(cache, read - len(tokens), len(tokens)) else None
        if read:
            if self._kept is None:
                self._kept = LRUPromptCache(CONVERSATIONS)
            self._make_room(cache)
            self._kept.insert_cache(speaker, list(tokens[:read]), cache)

    def clear(self) -> None:
        """Forget all."""
        self._kept = None

    def _make_room(self, cache: list[Any]) -> None:
        """Forget the oldest such that a cache, and what is kept, are not too large."""
        free = self._most_bytes - sum(layer.nbytes for layer in cache)
        self._kept.trim_to(n_bytes=free)


def tokens_read(cache: Sequence[Any]) -> int | None:
    """How many tokens a cache has read, by its own count.

    Returns:
        None where no layer counts, or the layers disagree.
    """
    counts = {layer.offset for layer in _layers(cache) if hasattr(layer, "offset")}
    return counts.pop() if len(counts) == 1 else None


def _layers(cache: Sequence[Any]) -> Iterator[Any]:
    """The caches of all layers; mlx-lm puts several of one layer into a `CacheList`."""
    for layer in cache:
        if hasattr(layer, "caches"):
            yield from _layers(layer.caches)
        else:
            yield layer


def _cut(cache: list[Any], surplus: int, left: int) -> bool:
    """Forget the last `surplus` tokens; whether exactly `left` are left."""
    from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

    if surplus:
        if not can_trim_prompt_cache(cache):
            return False
        trim_prompt_cache(cache, surplus)
    return tokens_read(cache) == left
