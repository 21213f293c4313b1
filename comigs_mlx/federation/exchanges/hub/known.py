"""Remembers what a `HubExchange` knows, so that it need not be requested again.

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
"""The number of listings and of contents that are remembered."""

SMALL = 1 << 14
"""The most bytes of a file that is remembered: contribution.json, not tensors."""

Authors = dict[str, str | None]


class Known:
    """The listings, contents and authors that were read so far.

    Attributes:
        authors: Maps a commit to the account of its first author.
        parents: Maps revision and path to the path's last commit, and a commit to the
            one before it.
    """

    def __init__(self) -> None:
        self.authors: Authors = {}
        self.parents: dict[str, str | None] = {}
        self._listings: dict[str, dict[str, File]] = {}
        self._contents: dict[File, bytes] = {}
        self._first: dict[tuple[str, File], str | None] = {}

    def listing(self, revision: str) -> dict[str, File] | None:
        """Return the files of a commit by path, if it was listed a moment ago."""
        return self._listings.get(revision)

    def listed(
        self, revision: str, ask: Callable[[], dict[str, File]]
    ) -> dict[str, File]:
        """Return the files of a commit by path; `ask` is called if they are not
        known.
        """
        if revision not in self._listings:
            self._listings[revision] = ask()
            _forget(self._listings, LISTINGS)
        return self._listings[revision]

    def content(self, file: File, ask: Callable[[], bytes]) -> bytes:
        """Return the content of a file; `ask` is called if its hash is not known."""
        if (content := self._contents.get(file)) is None:
            content = ask()
            if file.size <= SMALL and (file.sha256 or file.blob):
                self._contents[file] = content
                _forget(self._contents, CONTENTS)
        return content

    def origins(
        self, paths: Iterable[str], revision: str, ask: Callable[[list[str]], Authors]
    ) -> Authors:
        """Return the account that first committed each path's content; see
        `Exchange.origins`.
        """
        listed, remembered, new = self._listings.get(revision, {}), Authors(), []
        for path in paths:
            key = (path, listed.get(path, File(-1)))
            if key in self._first:
                remembered[path] = self._first[key]
            else:
                new.append(path)
        answers = ask(new) if new else {}
        self._first.update(
            {(p, listed[p]): a for p, a in answers.items() if p in listed}
        )
        return {**remembered, **answers}


def _forget(entries: dict[K, V], most: int) -> None:
    for old in list(entries)[:-most]:
        del entries[old]
