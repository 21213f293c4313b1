"""How far reading and tokenising are, told often enough to draw it or to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Advance = Callable[[str, int, int | None], None]
"""(what is counted, how many are done, of how many if that is known).

What it raises ends the work: nothing has been written yet."""

EVERY = 100
"""Rows or conversations between two calls: some milliseconds of work."""

SECONDS = 10.0
"""Between two lines of `spoken`."""

T = TypeVar("T")


def ignore(what: str, done: int, total: int | None) -> None:
    """An `Advance` that neither tells nor stops."""
    del what, done, total


def told(
    items: Iterable[T],
    what: str,
    advance: Advance,
    total: int | None = None,
    every: int = 1,
) -> Iterator[T]:
    """The items themselves; `advance` is told of every so many, before they are used.

    Args:
        items: The items to pass on.
        what: What they are called, such as "files".
        advance: Told how many are done.
        total: How many there are, if that is known.
        every: How many items are passed on between two calls.
    """
    for done, item in enumerate(items):
        if done % every == 0:
            advance(what, done, total)
        yield item


def spoken(say: Callable[[str], None]) -> Advance:
    """An `Advance` that says a line now and then, where the work takes long.

    Args:
        say: Told a sentence at most every `SECONDS`, the first one after as many.
    """
    last = time.monotonic()

    def advance(what: str, done: int, total: int | None) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SECONDS:
            last = now
            say(f"reading: {done:,}{f' of {total:,}' if total else ''} {what}")

    return advance
