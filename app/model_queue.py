"""One engine for all chats, and what the page says of it.

There is memory for one base model, and choosing a run and speaking with it must not be
parted by somebody else's choice: every question is one job for the engine, first come,
first served. Loading is a job too, after the page is up.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from comigs_mlx.errors import ComigsError, is_out_of_memory

from . import words

T = TypeVar("T")

OUT_OF_MEMORY = (
    "There is not enough memory for this. Close other programs, shorten the "
    "conversation, or choose a smaller base model."
)


@dataclass(frozen=True)
class Status:
    """What the model is doing.

    Attributes:
        state: `starting`, `ready`, `busy` or `problem`.
        text: The same for people.
    """

    state: str
    text: str


class ModelQueue:
    """The one engine, and what it is doing.

    Args:
        make: Makes a `ChatEngine`, given what it tells its progress to.
    """

    def __init__(self, make: Callable[[Callable[[str], None]], Any]):
        self._lock = threading.Lock()
        self._closing: list[Callable[[], None]] = []
        self._status = Status("starting", "Starting")
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
            what: What it does, for the page: "Answering".
            job: Raises what it likes; the status then tells.
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
        """Tell what takes time while a job is under way."""
        self._tell(self.status.state, text)

    def _do(self, what: str, job: Callable[[Any], T], engine: Any) -> T:
        first = self.status.state == "starting"
        self._tell("starting" if first else "busy", what)
        try:
            result = job(engine)
        except Exception as error:
            if first:  # later ones are told to who asked
                self._tell("problem", explain(error))
            else:
                self._tell("ready", "Ready")
            raise
        self._tell("ready", "Ready")
        return result

    def _tell(self, state: str, text: str) -> None:
        with self._lock:
            self._status = Status(state, text)


def explain(error: BaseException) -> str:
    """An error in a sentence of the page's words; the unexpected also on stderr."""
    if isinstance(error, ComigsError):
        return words.page(str(error))
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    traceback.print_exception(error, file=sys.stderr)
    return "Something went wrong here: the terminal that runs the app tells more."
