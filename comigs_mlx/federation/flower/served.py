"""The repository of a federation as a participant of a server sees it.

It holds what the server's last message brought, and hands the contribution of the run
to the answer to that message. So the run pulls, verifies, trains and contributes by the
same code as with a folder; only the server closes rounds.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Changes,
    File,
    Moved,
    NotAllowed,
    Snapshot,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.exchanges.memory import Commit, MemoryExchange, MemoryStore
from comigs_mlx.federation.exchanges.paths import is_allowed
from comigs_mlx.federation.flower.packet import Packet
from comigs_mlx.federation.formats.manifest import MANIFEST, Manifest
from comigs_mlx.federation.formats.round import ROUND, Round
from comigs_mlx.federation.rounds.attribution import PATH

LOOK = 0.5
"""The seconds between two looks at whether a message can still come."""


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """A contribution that waits for a message of the server, to be its answer.

    Attributes:
        round: The number of the round that it is for.
        participant: The name of the participant.
        files: Maps a file, relative to the participant's folder, to its content.
    """

    round: int
    participant: str
    files: dict[str, bytes]


class ServedExchange(MemoryExchange):
    """The repository behind a Flower server (see `base.Exchange` for the methods).

    Args:
        uri: The address by which the run remembers the federation.
        patience: The seconds to wait for the server's first message.

    Attributes:
        round: The last closed round that the server has told of; -1 before it did.
        over: Whether the server asks for no more rounds.
        check: Raises `FederationError` when no message can come any more.
    """

    def __init__(self, uri: str, patience: float = 300.0):
        super().__init__(None, MemoryStore())
        self.uri, self.patience = uri, patience
        self.round, self.over = -1, False
        self.check: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._listed: dict[str, int] = {}
        self._authors: dict[str, str] = {}
        self._outgoing: Outgoing | None = None
        self._seen = ""

    def bring(self, packet: Packet) -> None:
        """Take over the state of the repository that a message of the server holds.

        Raises:
            FederationError: If it holds none; what was there before stays then.
        """
        files, about = dict(packet.files), packet.about
        if not {MANIFEST, ROUND} <= files.keys():
            raise FederationError("the server's message holds no federation")
        Manifest.from_json(files[MANIFEST])
        closed = Round.from_json(files[ROUND])
        authors, listed = about.get("authors", {}), about.get("listed", {})
        _check_facts(authors, str)
        _check_facts(listed, int)
        with self._changed:
            self.store.history = [Commit("", None, "", frozenset(), {}, {})]
            super()._add(self.store.history, files, f"Round {closed.round}")
            self._authors, self._listed = authors, listed
            self.round, self.over = closed.round, about.get("over") is True
            self._changed.notify_all()

    def answer(self, round: int, seconds: float) -> Outgoing | None:
        """Wait for the run's contribution to a round; None if it takes longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready(round), seconds)
            return self._outgoing if self._is_ready(round) else None

    def pause(self, seconds: float) -> None:
        """Wait until there is another state than the last snapshot's, or so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest() != self._seen, seconds)

    def snapshot(self) -> Snapshot:
        """Return what the last message of the server brought; wait for the first."""
        with self._changed:
            end = time.monotonic() + self.patience
            while not self._changed.wait_for(self._newest, LOOK):
                self.check()
                if time.monotonic() < end:
                    continue
                raise Unreachable(
                    f"no message of the server of {self.uri} within "
                    f"{self.patience:.0f} s: is it running, and waiting for "
                    "participants?",
                    passing=False,
                    maybe_done=False,
                )
            current = super().snapshot()
            self._seen = current.revision
        listed = {path: File(size) for path, size in self._listed.items()}
        return Snapshot(current.revision, {**listed, **current.files})

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Read a file of the last message.

        Raises:
            Moved: If a newer message has come since.
        """
        with self._changed:
            if path in self._listed:
                raise TooLarge(f"{path} is on the server, which did not send it along")
            return super().read(path, revision, max_bytes)

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return the key of the SuperNode that gave each file, as the server says."""
        files = self.snapshot().files
        del revision
        return {path: self._authors.get(path) for path in paths if path in files}

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return what `authors` does: there is no history here."""
        return self.authors(paths, revision)

    def before(self, path: str, revision: str) -> Snapshot | None:
        """Return None: there is no history here."""
        del path, revision
        return None

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Keep a contribution for the answer to the server's message.

        Raises:
            NotAllowed: If it is anything else, which the server alone writes.
        """
        places = [PATH.fullmatch(path) for path in changes]
        whose = {(place[1], place[2]) for place in places if place}
        if None in places or len(whose) != 1:
            raise NotAllowed(f"only the server of {self.uri} writes that")
        ((round, name),) = whose
        new = {place[3]: changes[place[0]] for place in places if place}
        files = {path: c for path, c in new.items() if c is not None}
        with self._changed:
            revision = super().commit(changes, message, parent)
            self._seen = revision
            self._outgoing = Outgoing(int(round), name, files)
            self._changed.notify_all()
        return revision

    def check_writable(self) -> None:
        """Wait for the first message of the server."""
        self.snapshot()

    def _is_ready(self, round: int) -> bool:
        return self._outgoing is not None and self._outgoing.round == round

    def _newest(self) -> str:
        return self.store.history[-1].revision if self.store.history else ""

    def _at(self, revision: str) -> list[Commit]:
        history = self.store.history or []
        for i, commit in enumerate(history):
            if commit.revision == revision:
                return history[: i + 1]
        raise Moved(f"the server of {self.uri} has sent a newer state: read it")


def _check_facts(values: object, kind: type) -> None:
    """Raise unless `values` maps paths to values of a kind."""
    if not isinstance(values, dict) or not all(
        is_allowed(path) and type(value) is kind for path, value in values.items()
    ):
        raise FederationError("the server's message has facts of a wrong form")
