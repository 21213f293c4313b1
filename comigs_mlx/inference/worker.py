"""One thread that does one thing after another, for whoever asks.

An MLX array that is not computed yet belongs to the thread that made it ("There is no
Stream in current thread"), and a user interface calls from many threads. So whatever
touches a model runs here.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from comigs_mlx.errors import ComigsError

T = TypeVar("T")
Left = Callable[[], bool]
"""Whether nobody waits for the next item any more."""

END = object()
CLOSING_SECONDS = 10.0
"""How long `close` waits for what is being done."""


class Worker:
    """Does calls and streams in the order they were asked for."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._thread = threading.Thread(
            target=_work, args=(self._tasks,), name="comigs-engine", daemon=True
        )
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being done or waits to be."""
        return self.unfinished > 0

    @property
    def unfinished(self) -> int:
        """How many calls and streams are being done or wait to be."""
        with self._lock:
            return self._unfinished

    @property
    def closed(self) -> bool:
        """Whether it takes nothing new, and what is being done is to end."""
        return self._closed.is_set()

    def call(self, do: Callable[[], T]) -> T:
        """Do it, and wait for what it returns or raises."""
        answer: Future[T] = Future()

        def task() -> None:
            try:
                answer.set_result(do())
            except BaseException as error:
                answer.set_exception(error)

        self._add(task)
        return answer.result()

    def stream(self, make: Callable[[Left], Iterator[T]]) -> Iterator[T]:
        """The items of an iterator that is made and asked on the worker's thread.

        It begins with the first item asked for, and goes on at its own speed.

        Args:
            make: Given a function that tells whether to end early, because nobody
                listens any more or the worker is being closed.
        """
        items: queue.Queue[Any] = queue.Queue()
        gone = threading.Event()

        def left() -> bool:
            return gone.is_set() or self._closed.is_set()

        self._add(lambda: _fill(items, make, left))
        try:
            while (item := items.get()) is not END:
                if isinstance(item, _Raised):
                    raise item.error
                yield item
        finally:
            gone.set()

    def close(self) -> None:
        """End: what streams is told to, and nothing new is taken."""
        with self._lock:
            self._closed.set()
            self._tasks.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING_SECONDS)

    def _add(self, task: Callable[[], None]) -> None:
        def counted() -> None:
            try:
                task()
            finally:
                with self._lock:
                    self._unfinished -= 1

        with self._lock:
            if self._closed.is_set():
                raise ComigsError("the engine is closed: start the program again")
            self._unfinished += 1
            self._tasks.put(counted)


class _Raised:
    def __init__(self, error: BaseException):
        self.error = error


def _work(tasks: queue.Queue[Callable[[], None] | None]) -> None:
    try:
        while (task := tasks.get()) is not None:
            task()
            del task  # it may hold a model that nobody else does
    finally:
        clear_streams()


def clear_streams() -> None:
    """To be called at the end of each thread but the main one that has used MLX.

    MLX keeps a native thread for each stream, and the process aborts at its exit
    (`terminate called without an active exception`) where one outlives its owner.
    """
    if (mlx := sys.modules.get("mlx.core")) is not None:
        mlx.clear_streams()


def _fill(
    items: queue.Queue[Any], make: Callable[[Left], Iterator[Any]], left: Left
) -> None:
    try:
        if left():
            return
        iterator: Any = make(left)
        with contextlib.closing(iterator):
            for item in iterator:
                items.put(item)
    except BaseException as error:
        items.put(_Raised(error))
    finally:
        items.put(END)
