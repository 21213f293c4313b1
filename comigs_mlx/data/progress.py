"""How far reading and tokenising are, told often enough to draw it or to stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Advance = Callable[[str, int, int | None], None]
"""(what is counted, how many are done, of how many if that is known).

What it raises ends the work: nothing has been written yet."""

EVERY = 100
"""Rows or conversations between two calls: some milliseconds of work."""

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
        items: What is gone through.
        what: What they are called, such as "files".
        advance: Told how many are done.
        total: How many there are, if that is known.
        every: Items between two calls.
    """
    for done, item in enumerate(items):
        if done % every == 0:
            advance(what, done, total)
        yield item
