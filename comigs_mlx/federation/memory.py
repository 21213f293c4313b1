"""An exchange in memory, with history, accounts and faults on schedule: the fake.

store = MemoryStore(writers={"ann", "ben"})
ann, eve = MemoryExchange("ann", store), MemoryExchange("eve", store)
store.faults.append(Fault("commit", nth=2, error=Unreachable("gone"), after=True))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from comigs_mlx.federation.exchange import (
    Changes,
    File,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Snapshot,
)
from comigs_mlx.federation.memory_store import Commit as Commit
from comigs_mlx.federation.memory_store import Fault as Fault
from comigs_mlx.federation.memory_store import MemoryStore as MemoryStore
from comigs_mlx.federation.memory_store import Offer
from comigs_mlx.federation.paths import check_changes, check_path, check_size


class MemoryExchange:
    """`store` as one account sees it (see `exchange.Exchange` for the methods)."""

    def __init__(self, account: str | None = None, store: MemoryStore | None = None):
        self.name = account
        self.store = store if store is not None else MemoryStore()
        self.uri = "memory"

    def account(self) -> str | None:
        """The name given."""
        return self.name

    def create(self, private: bool = False) -> None:
        """Begin the history."""
        due = self.store.fault("create")
        with self.store.lock:
            if self.store.history is None:
                self.store.private = private
                first = Commit(_digest("", {}), None, "", frozenset(), {}, {})
                self.store.history = [first]
            elif private and not self.store.private:
                raise NotAllowed("the repository is public: drop --private")
        _raise(due)

    def snapshot(self) -> Snapshot:
        """The newest state."""
        due = self.store.fault("snapshot")
        head = self._history()[-1]
        _raise(due)
        return Snapshot(
            head.revision,
            {
                path: File(len(content), head.sha256[path])
                for path, content in head.files.items()
            },
        )

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """From any state of the history."""
        check_path(path)
        due = self.store.fault("read")
        files = self._at(revision)[-1].files
        if path not in files:
            raise NotThere(f"{path} is not in the repository at {revision}")
        check_size(path, len(files[path]), max_bytes)
        _raise(due)
        return files[path]

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """From the history."""
        due = self.store.fault("authors")
        history = self._at(revision)
        _raise(due)
        return {
            path: next((c.author for c in reversed(history) if path in c.changed), None)
            for path in paths
            if path in history[-1].files
        }

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Add one entry to the history."""
        check_changes(changes, message)
        due = self.store.fault("commit")
        self.check_writable()
        with self.store.lock:
            history = self._history()
            if parent is not None and parent != history[-1].revision:
                raise Moved("somebody committed first: read again what is there now")
            head = self._add(history, changes, message)
        _raise(due)
        return head

    def check_writable(self) -> None:
        """Whether this account is one of the store's writers."""
        self._history()
        writers = self.store.writers
        if writers is not None and self.name not in writers:
            raise NotAllowed(
                f"{self.name} may not write here: ask the owner, or add --create-pr"
            )

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Keep `changes` for somebody who may write."""
        check_changes(changes, message)
        due = self.store.fault("propose")
        self._history()
        with self.store.lock:
            number = len(self.store.offers) + 1
            self.store.offers[number] = Offer(self.name, message, dict(changes))
        _raise(due)
        return self.url(f"proposals/{number}")

    def proposals(self) -> list[Proposal]:
        """What has been proposed and not merged."""
        due = self.store.fault("proposals")
        _raise(due)
        return [
            Proposal(n, o.title, o.author, self.url(f"proposals/{n}"), "")
            for n, o in sorted(self.store.offers.items())
            if o.changes
        ]

    def merge(self, number: int) -> None:
        """Commit what was proposed."""
        due = self.store.fault("merge")
        self.check_writable()
        with self.store.lock:
            offer = self.store.offers.get(number)
            if offer is None or not offer.changes:
                raise NotThere(f"there is no open proposal {number}")
            self._add(self._history(), offer.changes, offer.title)
            offer.changes = {}
        _raise(due)

    def url(self, path: str = "") -> str:
        """A made-up address."""
        return f"{self.uri}:{path}"

    def _add(self, history: list[Commit], changes: Changes, message: str) -> str:
        head = history[-1]
        files = {p: c for p, c in head.files.items() if p not in changes}
        files |= {p: bytes(c) for p, c in changes.items() if c is not None}
        changed = {
            p for p in {*files, *head.files} if files.get(p) != head.files.get(p)
        }
        if changed:
            new = {p: hashlib.sha256(files[p]).hexdigest() for p in changed & {*files}}
            known = {p: new.get(p) or head.sha256[p] for p in files}
            revision = _digest(f"{head.revision} {self.name} {message}", known)
            entry = (self.name, message, frozenset(changed), files, known)
            history.append(Commit(revision, *entry))
        return history[-1].revision

    def _history(self) -> list[Commit]:
        if self.store.history is None:
            raise NotThere("there is no repository yet: make one with sync init")
        return self.store.history

    def _at(self, revision: str) -> list[Commit]:
        """The history up to `revision`."""
        history = self._history()
        for i, commit in enumerate(history):
            if commit.revision == revision:
                return history[: i + 1]
        raise NotThere(f"there is no revision {revision}: read a new snapshot")


def _digest(before: str, known: dict[str, str]) -> str:
    parts = [before, *(f"{path} {sha256}" for path, sha256 in sorted(known.items()))]
    return hashlib.sha1("\n".join(parts).encode()).hexdigest()


def _raise(fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error
