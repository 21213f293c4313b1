"""What a model has read, kept for the next turn of the same conversation.

Keys and values depend on everything that speaks: so they are used again only where
the base, the experts' values and the selection are the same, and as far as the tokens
are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any


class PromptCache:
    """At most one mlx-lm prompt cache, with the tokens it has read and for whom."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._tokens: list[int] = []
        self._cache: list[Any] | None = None

    def take(
        self, key: Hashable, prompt: Sequence[int], model: Any
    ) -> tuple[list[Any], int]:
        """A cache that has read the first tokens of a prompt, and how many.

        It is taken out: give it back with `keep` when it has read more.

        Args:
            key: Of everything that keys and values depend on.
            prompt: At least one token is left to be read.
            model: For a new cache, where the old one is of no use.
        """
        from mlx_lm.models.cache import make_prompt_cache

        cache, shared = self._cache, _common(self._tokens, prompt[:-1])
        surplus = len(self._tokens) - shared
        usable = cache is not None and shared > 0 and key == self._key
        self.clear()
        if cache is not None and usable and _cut(cache, surplus, shared):
            return cache, shared
        return make_prompt_cache(model), 0

    def keep(self, key: Hashable, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a cache instead of the old one, under what it says it has read.

        A cache that has read nothing, or whose layers disagree, is not kept: it was
        left in the middle of something.

        Args:
            key: As for `take`.
            tokens: What it was given, from the first token on; it may have read only
                the first of them, as when it was stopped.
            cache: No computation in it has failed.
        """
        self.clear()
        read = tokens_read(cache)
        if read is not None and read > len(tokens):
            read = len(tokens) if _cut(cache, read - len(tokens), len(tokens)) else None
        if read:
            self._key, self._tokens, self._cache = key, list(tokens[:read]), cache

    def clear(self) -> None:
        """Forget it."""
        self._key, self._tokens, self._cache = None, [], None


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


def _common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens the two begin with in common."""
    pairs = enumerate(zip(tokens, others, strict=False))
    unequal = (at for at, (a, b) in pairs if a != b)
    return next(unequal, min(len(tokens), len(others)))
