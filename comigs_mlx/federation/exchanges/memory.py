"""The fake: an exchange in memory, with history, accounts and faults on schedule.

Large contents may lie in a folder instead, for a simulation of many participants.

store = MemoryStore(writers={"ann", "ben"})
ann, eve = MemoryExchange("ann", store), MemoryExchange("eve", store)
store.faults.append(Fault("commit", nth=2, error=Unreachable("gone"), after=True))
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from comigs_mlx.federation.exchanges.base import (
    Changes,
    File,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Snapshot,
)
from comigs_mlx.federation.exchanges.paths import check_changes, check_path, check_size

Content = bytes | Path
"""The content of a file, or the file on the disk that holds it."""

LARGE = 2**16
"""The bytes from which on a content lies in the store's folder, where it has one."""


def size(content: Content) -> int:
    """Count the bytes of a content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def read(content: Content) -> bytes:
    """Return a content, from the disk if it lies there."""
    return content.read_bytes() if isinstance(content, Path) else content


@dataclass(frozen=True)
class Fault:
    """A fault: the `nth` call of `method` from now on (1 is the next) raises `error`.

    Attributes:
        after: Whether the work is done first, as when an answer is lost.
    """

    method: str
    nth: int
    error: Exception
    after: bool = False


@dataclass(frozen=True)
class Commit:
    """One entry of the history.

    Attributes:
        files: Maps a path to its content, or to the file that holds it, in the whole
            state after the commit.
        sha256: Maps a path to the SHA-256 of its content; each content is hashed once.
        time: The time of the commit, in seconds since the epoch, where the store has a
            clock.
    """

    revision: str
    author: str | None
    message: str
    changed: frozenset[str]
    files: dict[str, Content]
    sha256: dict[str, str]
    time: float | None = None


@dataclass
class Offer:
    """A proposal: one commit upon the newest state of its day."""

    commit: Commit
    before: list[Commit]
    open: bool = True


@dataclass
class MemoryStore:
    """The repository that several accounts share.

    Attributes:
        writers: The accounts that may commit; None means everybody.
        history: The commits, the oldest first; None until the repository is created.
        private: Whether `create` was asked for a private repository.
        faults: The errors to raise, each of them once.
        renamed: Maps the old name of an account to its new one.
        clock: The store's own clock, as the Hub has one; None where it has none.
        folder: A folder for large contents, for this store alone; None keeps all of
            them in memory.
    """

    writers: Collection[str | None] | None = None
    history: list[Commit] | None = None
    private: bool = False
    faults: list[Fault] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    offers: dict[int, Offer] = field(default_factory=dict)
    clock: Callable[[], float] | None = None
    folder: Path | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def forget(self) -> None:
        """Drop all of the history but the newest state, and files that held it."""
        with self.lock:
            if self.history:
                self.history[:-1] = []
            if self.folder is not None and self.folder.is_dir():
                newest = self.history[-1].files.values() if self.history else ()
                in_use = {held.name for held in newest if isinstance(held, Path)}
                for file in self.folder.iterdir():
                    if file.name not in in_use:
                        file.unlink()

    def keep(self, content: bytes, sha256: str) -> Content:
        """Keep a content in memory, or in a file that is named by its SHA-256."""
        if self.folder is None or len(content) < LARGE:
            return content
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / sha256
        file.write_bytes(content)
        return file

    def fault(self, method: str) -> Fault | None:
        """Count one call of `method`; return the fault that is due, if any."""
        due = None
        with self.lock:
            for i, fault in reversed(list(enumerate(self.faults))):
                if fault.method != method:
                    continue
                if fault.nth == 1:
                    due = self.faults.pop(i)
                else:
                    self.faults[i] = Fault(
                        method, fault.nth - 1, fault.error, fault.after
                    )
        if due is not None and not due.after:
            raise due.error
        return due


class MemoryExchange:
    """`store` as one account sees it (see `base.Exchange` for the methods)."""

    def __init__(self, account: str | None = None, store: MemoryStore | None = None):
        self.name = account
        self.store = store if store is not None else MemoryStore()
        self.uri = "memory"

    def account(self) -> str | None:
        """Return the given name."""
        return self.name

    def create(self, private: bool = False) -> None:
        """Begin the history."""
        due = self.store.fault("create")
        with self.store.lock:
            if self.store.history is None:
                self.store.private = private
                self.store.history = [
                    Commit(_digest("", {}), None, "", frozenset(), {}, {})
                ]
            elif private and not self.store.private:
                raise NotAllowed("the repository is public: drop --private")
        _raise(due)

    def snapshot(self) -> Snapshot:
        """Return the newest state."""
        due = self.store.fault("snapshot")
        head = self._history()[-1]
        _raise(due)
        return _snapshot(head)

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Read a file in any state of the history."""
        check_path(path)
        due = self.store.fault("read")
        files = self._at(revision)[-1].files
        if path not in files:
            raise NotThere(f"{path} is not in the repository at {revision}")
        check_size(path, size(files[path]), max_bytes)
        _raise(due)
        return read(files[path])

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Search the history for the last commit of each path."""
        due = self.store.fault("authors")
        history = self._at(revision)
        _raise(due)
        return {
            path: next((c.author for c in reversed(history) if path in c.changed), None)
            for path in paths
            if path in history[-1].files
        }

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Search the history for the oldest state that has the same content."""
        history = self._at(revision)
        firsts: dict[str, str | None] = {}
        for path in paths:
            digest = history[-1].sha256.get(path)
            equal = (c for c in history if digest and c.sha256.get(path) == digest)
            if (oldest := next(equal, None)) is not None:
                firsts |= self.authors([path], oldest.revision)
        return firsts

    def before(self, path: str, revision: str) -> Snapshot | None:
        """Return the state before the last change of `path`, from the history."""
        history = self._at(revision)
        changes = [i for i, commit in enumerate(history) if path in commit.changed]
        if not changes or changes[-1] == 0:
            return None
        return _snapshot(history[changes[-1] - 1])

    def committed(self, path: str, revision: str) -> float | None:
        """Return the time of the last commit of `path`, by `store.clock`."""
        history = self._at(revision)
        return next((c.time for c in reversed(history) if path in c.changed), None)

    def clock(self) -> float | None:
        """Return the time of `store.clock`, if there is one."""
        return None if self.store.clock is None else self.store.clock()

    def known_as(self, account: str) -> str | None:
        """Return the new name of `store.renamed`, if there is one."""
        return self.store.renamed.get(account, account)

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
        """Check that this account is one of the store's writers."""
        self._history()
        writers = self.store.writers
        if writers is not None and self.name not in writers:
            raise NotAllowed(
                f"{self.name} may not write here: ask the owner, or add --create-pr"
            )

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Keep `changes` for an account that may write."""
        check_changes(changes, message)
        due = self.store.fault("propose")
        with self.store.lock:
            before, number = list(self._history()), len(self.store.offers) + 1
            offer = Offer(self._next(before[-1], changes, message), before)
            self.store.offers[number] = offer
        _raise(due)
        return self.url(f"proposals/{number}")

    def proposals(self) -> list[Proposal]:
        """List what has been proposed and not dismissed."""
        due = self.store.fault("proposals")
        _raise(due)
        return [
            Proposal(n, o.commit.message, o.commit.author, self.url(f"proposals/{n}"))
            for n, o in sorted(self.store.offers.items())
            if o.open
        ]

    def proposed(self, number: int) -> tuple[Snapshot, frozenset[str]]:
        """Return the state that the proposal would have made by itself."""
        due = self.store.fault("proposed")
        if (offer := self.store.offers.get(number)) is None:
            raise NotThere(f"there is no proposal {number}")
        _raise(due)
        return _snapshot(offer.commit), offer.commit.changed

    def dismiss(self, number: int, comment: str) -> None:
        """Close the proposal."""
        due = self.store.fault("dismiss")
        self.check_writable()
        offer = self.store.offers.get(number)
        if offer is None or not offer.open:
            raise NotThere(f"there is no open proposal {number}")
        offer.open = False
        _raise(due)

    def url(self, path: str = "") -> str:
        """Return a made-up address."""
        return f"{self.uri}:{path}"

    def _add(self, history: list[Commit], changes: Changes, message: str) -> str:
        commit = self._next(history[-1], changes, message)
        if commit.changed:
            history.append(commit)
        return history[-1].revision

    def _next(self, head: Commit, changes: Changes, message: str) -> Commit:
        given = {p: bytes(c) for p, c in changes.items() if c is not None}
        new = {p: hashlib.sha256(c).hexdigest() for p, c in given.items()}
        digests = {p: d for p, d in head.sha256.items() if p not in changes} | new
        changed = {p for p in changes if digests.get(p) != head.sha256.get(p)}
        files = {
            p: self.store.keep(given[p], new[p]) if p in changed & {*given} else held
            for p, held in {**head.files, **given}.items()
            if p in digests
        }
        revision = _digest(f"{head.revision} {self.name} {message}", digests)
        commit = revision, self.name, message, frozenset(changed), files, digests
        return Commit(*commit, self.clock())

    def _history(self) -> list[Commit]:
        if self.store.history is None:
            raise NotThere("there is no repository yet: make one with sync init")
        return self.store.history

    def _at(self, revision: str) -> list[Commit]:
        """Return the history up to `revision`."""
        offers = [[*o.before, o.commit] for o in self.store.offers.values()]
        for history in (self._history(), *offers):
            for i, commit in enumerate(history):
                if commit.revision == revision:
                    return history[: i + 1]
        raise NotThere(f"there is no revision {revision}: read a new snapshot")


def _snapshot(commit: Commit) -> Snapshot:
    return Snapshot(
        commit.revision,
        {
            path: File(size(content), commit.sha256[path])
            for path, content in commit.files.items()
        },
    )


def _digest(before: str, digests: dict[str, str]) -> str:
    parts = [before, *(f"{path} {sha256}" for path, sha256 in sorted(digests.items()))]
    return hashlib.sha1("\n".join(parts).encode()).hexdigest()


def _raise(fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error
