"""What the accounts of `memory` share: history, proposals, faults on schedule."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """The `nth` call of `method` from now on (1 is the next) raises `error`.

    Attributes:
        after: Do the work first, as when an answer is lost.
    """

    method: str
    nth: int
    error: Exception
    after: bool = False


@dataclass(frozen=True)
class Commit:
    """One entry of the history.

    Attributes:
        files: The whole state, path -> content.
        sha256: Path -> digest of the content; each content is hashed once.
        time: When, in seconds since the epoch, where the store has a clock.
    """

    revision: str
    author: str | None
    message: str
    changed: frozenset[str]
    files: dict[str, bytes]
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
    """What several accounts share.

    Attributes:
        writers: The accounts that may commit; None lets everybody.
        history: Oldest first; None until somebody creates the repository.
        private: As `create` was asked.
        faults: Schedule; each is used once.
        renamed: Old -> new name of accounts.
        clock: Its own, as the Hub has one.
    """

    writers: Collection[str | None] | None = None
    history: list[Commit] | None = None
    private: bool = False
    faults: list[Fault] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    offers: dict[int, Offer] = field(default_factory=dict)
    clock: Callable[[], float] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def forget(self) -> None:
        """Drop all of the history but the newest state."""
        with self.lock:
            if self.history:
                self.history[:-1] = []

    def fault(self, method: str) -> Fault | None:
        """Count one call of `method`; the fault that is due, if any."""
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
