"""Tells how far reading and tokenising are, often enough to draw it or to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Advance = Callable[[str, int, int | None], None]
"""Takes what is counted, how many are done, and of how many, if that is known.

It ends the work by raising; nothing has been written yet."""

EVERY = 100
"""The rows or conversations between two calls, some milliseconds of work."""

SECONDS = 10.0
"""The least time between two lines of `in_sentences`."""

T = TypeVar("T")


def ignore(what: str, done: int, total: int | None) -> None:
    """Do nothing, as the `Advance` of callers without one."""
    del what, done, total


def with_progress(
    items: Iterable[T],
    name: str,
    advance: Advance,
    total: int | None = None,
    every: int = 1,
) -> Iterator[T]:
    """Yield the items, and call `advance` before every `every`-th of them.

    Args:
        items: The items to yield.
        name: The name of the items, such as "files".
        advance: Is called with the number of items done.
        total: The number of items, if it is known.
        every: The number of items between two calls.
    """
    for count, item in enumerate(items):
        if count % every == 0:
            advance(name, count, total)
        yield item


def in_sentences(say: Callable[[str], None]) -> Advance:
    """Make an `Advance` that says a line now and then, where the work takes long.

    Args:
        say: Receives a sentence at most every `SECONDS`, the first one after as many.
    """
    last_said = time.monotonic()

    def advance(what: str, done: int, total: int | None) -> None:
        nonlocal last_said
        if (now := time.monotonic()) - last_said >= SECONDS:
            last_said = now
            say(f"reading: {done:,}{f' of {total:,}' if total else ''} {what}")

    return advance
