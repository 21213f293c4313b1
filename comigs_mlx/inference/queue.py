"""One engine for all who ask, and what it is doing.

There is memory for one base model, and choosing a run and speaking with it must not be
parted by somebody else's choice: every question is one job for the engine, first come,
first served. Loading is a job too, so that a page is up before the model is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from comigs_mlx.errors import line
from comigs_mlx.messages import Say

T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """What the model is doing.

    Attributes:
        state: One of `starting`, `ready`, `busy` and `problem`.
        text: The same in words for people.
    """

    state: str
    text: str


class ModelQueue:
    """The one engine, and what it is doing.

    Args:
        make: Makes a `ChatEngine`, given what it tells its progress to.
        explain: Says an error in the words of who reads the status.
    """

    def __init__(
        self,
        make: Callable[[Say], Any],
        explain: Callable[[BaseException], str] = line,
    ):
        self._lock = threading.Lock()
        self._closing: list[Callable[[], None]] = []
        self._status = Status("starting", "Starting")
        self._explain = explain
        self._engine = make(self.say)

    @property
    def status(self) -> Status:
        """What the model is doing now."""
        with self._lock:
            return self._status

    @property
    def queue(self) -> int:
        """Jobs under way or waiting."""
        unfinished: int = self._engine.unfinished
        return unfinished

    def submit(self, what: str, job: Callable[[Any], T]) -> Future[T]:
        """Have `job(engine)` done, first come, first served.

        Args:
            what: A word for the status on what it does: "Answering".
            job: The job; it may raise anything, and the status then tells.
        """
        answer: Future[T] = self._engine.submit(lambda e: self._do(what, job, e))
        return answer

    def before_end(self, act: Callable[[], None]) -> None:
        """Have something done when the queue closes, while jobs may run."""
        self._closing.append(act)

    def close(self) -> None:
        """Take no more jobs, and end what is being said."""
        for act in self._closing:
            act()
        self._engine.close()

    def say(self, text: str) -> None:
        """Tell what takes time while a job is under way; the state stays."""
        self._tell(self.status.state, text)

    def _do(self, what: str, job: Callable[[Any], T], engine: Any) -> T:
        first = self.status.state == "starting"
        self._tell("starting" if first else "busy", what)
        try:
            result = job(engine)
        except Exception as error:
            if first:  # later ones are told to who asked
                self._tell("problem", self._explain(error))
            else:
                self._tell("ready", "Ready")
            raise
        self._tell("ready", "Ready")
        return result

    def _tell(self, state: str, text: str) -> None:
        with self._lock:
            self._status = Status(state, text)
