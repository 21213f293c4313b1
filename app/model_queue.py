"""One engine for all chats, in a thread of its own.

There is memory for one base model, and choosing a run and speaking with it must not be
parted by somebody else's choice: every question is a job for one worker, first come,
first served. Loading begins there too, after the page is up.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from app import words
from comigs_mlx.errors import ComigsError
from comigs_mlx.inference.worker import clear_streams

T = TypeVar("T")

MEMORY_WORDS = ("out of memory", "malloc", "insufficient memory", "unable to allocate")
"""How MLX, Metal and Python say that memory has run out."""

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
    """Hands jobs to the one engine.

    Args:
        make: Makes the engine; called in the worker, once.
    """

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._engine: Any = None
        self._waiting = 0
        self._closing: list[Callable[[], None]] = []
        self._standing = Status("starting", "Starting")

    @property
    def standing(self) -> Status:
        """What the model is doing now."""
        with self._lock:
            return self._standing

    @property
    def queue(self) -> int:
        """Jobs under way or waiting."""
        with self._lock:
            return self._waiting

    def submit(self, what: str, job: Callable[[Any], T]) -> Future[T]:
        """Have `job(engine)` done.

        Args:
            what: What it does, for people: "Answering".
            job: Raises what it likes; the standing then tells.
        """
        with self._lock:
            self._waiting += 1
        return self._worker.submit(self._do, what, job)

    def before_end(self, act: Callable[[], None]) -> None:
        """Have something done when the queue closes, while jobs may run."""
        self._closing.append(act)

    def close(self) -> None:
        """Take no more jobs, and end what is being said."""
        for act in self._closing:
            act()
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            self._engine.close()

    def _do(self, what: str, job: Callable[[Any], T]) -> T:
        state = "busy" if self._engine is not None else "starting"
        self._stand(state, what)
        try:
            if self._engine is None:
                self._engine = self._make()
            result = job(self._engine)
        except Exception as error:
            if state == "starting":  # later ones are told to who asked
                self._stand("problem", explain(error))
            else:
                self._stand("ready", "Ready")
            raise
        else:
            self._stand("ready", "Ready")
            return result
        finally:
            clear_streams()  # a thread that ends with MLX's streams open aborts
            with self._lock:
                self._waiting -= 1

    def _stand(self, state: str, text: str) -> None:
        with self._lock:
            self._standing = Status(state, text)

    def say(self, text: str) -> None:
        """Tell what takes time while a job is under way."""
        self._stand(self.standing.state, text)


def explain(error: BaseException) -> str:
    """An error in a sentence of the page's words; the unexpected also on stderr."""
    if isinstance(error, ComigsError):
        return words.page(str(error))
    said = str(error).lower()
    if isinstance(error, MemoryError) or any(word in said for word in MEMORY_WORDS):
        return OUT_OF_MEMORY
    traceback.print_exception(error, file=sys.stderr)
    return "Something went wrong here: the terminal that runs the app tells more."
