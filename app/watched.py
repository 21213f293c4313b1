"""Work that a page watches: how it stands, and what has changed since it was asked."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Progress

from . import remedies
from .model_queue import ModelQueue, explain
from .sessions import Sessions


def failure(error: BaseException) -> tuple[str, str]:
    """What a view says of an error, and the remedy that it offers."""
    text = explain(error)
    return text, remedies.of(error, text, remedies.IN_A_VIEW)


class Watched:
    """Work on the model's queue; used from several threads.

    A page says which version of which epoch it has, and is told what came after it.

    Args:
        model_queue: Has the engine.

    Attributes:
        active: Whether it is under way.
    """

    DOING: ClassVar[Mapping[str, str]] = {}
    """What the engine does, in the words of the page; others are capitalised."""

    def __init__(self, model_queue: ModelQueue):
        self._model_queue = model_queue
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._epoch, self._version = random.getrandbits(31), 1
        self._status: dict[str, Any] = {"text": "", "done": 0, "total": 0}
        self.active = False

    def stop(self) -> None:
        """End what is under way."""
        self._stop.set()

    def refuse(self, error: Exception) -> None:
        """Tell the page why an order is not done."""
        with self._lock:
            told = {"done": 0, "total": 0, "bad": True}
            text, remedy = failure(error)
            self._status = {**told, "text": text, "remedy": remedies.named(remedy)}

    def _begin(self) -> None:
        """Start anew: pages forget what they have."""
        self._stop, self.active = threading.Event(), True
        self._epoch, self._version = self._epoch + 1, 1

    def _listen(self, progress: Progress) -> None:
        text = self.DOING.get(progress.what, progress.what.capitalize())
        with self._lock:
            self._tell(text, progress.done, progress.total)

    def _tell(self, text: str, done: int = 0, total: int = 0) -> None:
        self._status = {"text": text, "done": done, "total": total}


class WatchedActions:
    """What a view does whose work a page watches.

    Attributes:
        sessions: The work of each open page.
    """

    PART: ClassVar[str]
    """What `token` calls the part of the work in which the piece is."""

    sessions: Sessions

    def changes(self, question: Any) -> dict[str, Any]:
        """What a page lacks: `id`, `epoch` and `since` in.

        Raises:
            ConfigError: If it is no such question.
        """
        if not asks(question):
            raise ConfigError("expected id, epoch and since")
        found = self.sessions.find(question.get("id"))
        changes: dict[str, Any] = found.changes(question["epoch"], question["since"])
        return changes

    def token(self, question: Any) -> dict[str, Any]:
        """One token: `id`, `epoch`, the part and `piece` in."""
        found = self.sessions.find(question.get("id"))
        names = ("epoch", self.PART, "piece")
        token: dict[str, Any] = found.token(*(question.get(name) for name in names))
        return token

    def order(
        self, session: dict[str, Any], order: Mapping[str, Any], *given: Any
    ) -> dict[str, Any]:
        """Do what a page wants, or tell it why not.

        Args:
            session: The element's value.
            order: What is wanted; `stop` ends what is under way.
            given: The values of widgets that it is wanted with.

        Returns:
            The element's value, changed so that it asks for what is new.
        """
        found = self.sessions.find(session["id"])
        try:
            if order.get("stop"):
                found.stop()
            else:
                self._begin(found, order, *given)
        except Exception as error:
            found.refuse(error)
        return touched(session)

    def _begin(self, found: Any, order: Mapping[str, Any], *given: Any) -> None:
        """Begin the work that is wanted.

        Raises:
            ComigsError: If it cannot be.
        """
        raise NotImplementedError


def asks(question: Any) -> bool:
    """Whether a page asks for what is new: it says its `epoch`, and `since` when."""
    return isinstance(question, dict) and all(
        type(question.get(name)) is int for name in ("epoch", "since")
    )


def touched(session: dict[str, Any]) -> dict[str, Any]:
    """An element's value, changed so that it asks for what is new."""
    return {**session, "asked": f"{random.getrandbits(32):x}"}
