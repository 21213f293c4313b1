"""An exchange that counts the bytes of files that are read and written through it."""

from __future__ import annotations

from typing import Any

from comigs_mlx.federation.exchanges.base import Changes, Exchange


class Metered:
    """Acts as the exchange inside, and counts the contents read and written.

    Listings, headers and what is sent again after an error are not counted.

    Attributes:
        received: The bytes of files that have been read so far.
        sent: The bytes of files that have been committed or proposed so far.
    """

    def __init__(self, inner: Exchange):
        self._inner = inner
        self.uri = inner.uri
        self.received = self.sent = 0

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Read as `Exchange.read` does."""
        content = self._inner.read(path, revision, max_bytes)
        self.received += len(content)
        return content

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Commit as `Exchange.commit` does."""
        revision = self._inner.commit(changes, message, parent)
        self.sent += _size(changes)
        return revision

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Propose as `Exchange.propose` does."""
        url = self._inner.propose(changes, message, description)
        self.sent += _size(changes)
        return url

    def take(self) -> tuple[int, int]:
        """Return the bytes sent and received since the last call."""
        counts = self.sent, self.received
        self.sent = self.received = 0
        return counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _size(changes: Changes) -> int:
    return sum(len(content) for content in changes.values() if content is not None)
