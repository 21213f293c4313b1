"""What a `HubExchange` knows already and need not ask for again.

Listings of commits, authors of commits and contents by their hash never change; so they
cost requests once, however often a round is looked at and however long its history is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from comigs_mlx.federation.exchanges.base import File

K = TypeVar("K")
V = TypeVar("V")

LISTINGS, CONTENTS = 4, 1000
"""How many are remembered."""

SMALL = 1 << 14
"""Bytes of a file that is remembered: contribution.json, not tensors."""

Authors = dict[str, str | None]


class Known:
    """What was met so far.

    Attributes:
        authors: Commit -> the account of its first author.
        parents: Revision and path -> the path's last commit; commit -> the commit
            before it.
    """

    def __init__(self) -> None:
        self.authors: Authors = {}
        self.parents: dict[str, str | None] = {}
        self._listings: dict[str, dict[str, File]] = {}
        self._contents: dict[File, bytes] = {}
        self._first: dict[tuple[str, File], str | None] = {}

    def listing(self, revision: str) -> dict[str, File] | None:
        """Path -> file of a commit, where it was listed a moment ago."""
        return self._listings.get(revision)

    def listed(
        self, revision: str, ask: Callable[[], dict[str, File]]
    ) -> dict[str, File]:
        """The same; asked for where it is not known."""
        if revision not in self._listings:
            self._listings[revision] = ask()
            _forget(self._listings, LISTINGS)
        return self._listings[revision]

    def content(self, file: File, ask: Callable[[], bytes]) -> bytes:
        """The content of a file; asked for where it is not known by its hash."""
        if (found := self._contents.get(file)) is None:
            found = ask()
            if file.size <= SMALL and (file.sha256 or file.blob):
                self._contents[file] = found
                _forget(self._contents, CONTENTS)
        return found

    def origins(
        self, paths: Iterable[str], revision: str, ask: Callable[[list[str]], Authors]
    ) -> Authors:
        """Path -> who first committed its content; see `Exchange.origins`."""
        listed, found, new = self._listings.get(revision, {}), Authors(), []
        for path in paths:
            key = (path, listed.get(path, File(-1)))
            if key in self._first:
                found[path] = self._first[key]
            else:
                new.append(path)
        told = ask(new) if new else {}
        self._first.update({(p, listed[p]): a for p, a in told.items() if p in listed})
        return {**found, **told}


def _forget(known: dict[K, V], most: int) -> None:
    for old in list(known)[:-most]:
        del known[old]
