"""What a model has read, kept for the next turn of the same conversation.

Keys and values depend on everything that speaks: so they are used again only where
the base, the experts' values and the selection are the same, and as far as the tokens
are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
        from mlx_lm.models.cache import (
            can_trim_prompt_cache,
            make_prompt_cache,
            trim_prompt_cache,
        )

        cache, shared = self._cache, _common(self._tokens, prompt[:-1])
        surplus = len(self._tokens) - shared
        usable = cache is not None and shared > 0 and key == self._key
        self.clear()
        if cache is not None and usable:
            if surplus == 0:
                return cache, shared
            if can_trim_prompt_cache(cache):
                trim_prompt_cache(cache, surplus)
                return cache, shared
        return make_prompt_cache(model), 0

    def keep(self, key: Hashable, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a cache that has read exactly these tokens, instead of the old one."""
        self._key, self._tokens, self._cache = key, list(tokens), cache

    def clear(self) -> None:
        """Forget it."""
        self._key, self._tokens, self._cache = None, [], None


def _common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens the two begin with in common."""
    pairs = enumerate(zip(tokens, others, strict=False))
    unequal = (at for at, (a, b) in pairs if a != b)
    return next(unequal, min(len(tokens), len(others)))
