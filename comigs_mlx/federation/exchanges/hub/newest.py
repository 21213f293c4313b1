"""A branch's newest commit, which must not go back while the Hub's answers lag.

A commit that this process made or saw a moment ago is newer than its ancestors, so an
answer that names one of those is out of date. After a while it is believed all the
same: an older state has been put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

LAG = 60.0
"""The most seconds for which answers may be behind what is known."""


class Newest:
    """The newest commit known; `ancestors` returns some of a commit's, newest first."""

    def __init__(self, ancestors: Callable[[str], Collection[str]]):
        self._ancestors = ancestors
        self._newest: str | None = None
        self._older: set[str] = set()
        self._looked = True
        self._since = 0.0

    def committed(self, revision: str) -> None:
        """Record a commit of our own, whose ancestors are not known yet."""
        self._note(revision)
        self._looked = False

    def latest(self, head: str) -> str:
        """Return the newest commit, where the Hub says that it is `head`."""
        if head != self._newest:
            if self._newest is not None and self._is_old(head):
                return self._newest
            self._note(head)
        return head

    def _is_old(self, head: str) -> bool:
        if time.monotonic() - self._since > LAG:
            return False
        if head not in self._older and not self._looked and self._newest is not None:
            self._older.update(self._ancestors(self._newest))
            self._looked = True
        return head in self._older

    def _note(self, revision: str) -> None:
        if self._newest is not None:
            self._older.add(self._newest)
        self._older.discard(revision)
        self._newest, self._looked, self._since = revision, True, time.monotonic()
