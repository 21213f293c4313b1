"""An exchange that counts the bytes of files that come and go through it."""

from __future__ import annotations

from typing import Any

from comigs_mlx.federation.exchanges.base import Changes, Exchange


class Metered:
    """Everything as the exchange inside; contents read and written are counted.

    Listings, headers and what is sent again after an error are not.

    Attributes:
        received: How many bytes of files have been read so far.
        sent: How many bytes of files have been committed or proposed so far.
    """

    def __init__(self, inner: Exchange):
        self._inner = inner
        self.uri = inner.uri
        self.received = self.sent = 0

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """As `Exchange.read`."""
        content = self._inner.read(path, revision, max_bytes)
        self.received += len(content)
        return content

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """As `Exchange.commit`."""
        revision = self._inner.commit(changes, message, parent)
        self.sent += _size(changes)
        return revision

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """As `Exchange.propose`."""
        url = self._inner.propose(changes, message, description)
        self.sent += _size(changes)
        return url

    def take(self) -> tuple[int, int]:
        """Bytes sent and received since the last call."""
        counts = self.sent, self.received
        self.sent = self.received = 0
        return counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _size(changes: Changes) -> int:
    return sum(len(content) for content in changes.values() if content is not None)
