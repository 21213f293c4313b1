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
from concurrent.futures import CancelledError, Future
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

    def submit(self, do: Callable[[], T]) -> Future[T]:
        """Have it done, and go on meanwhile.

        Returns:
            What it returns or raises. It is cancelled if it still waits when the worker
            is closed.

        Raises:
            ComigsError: If the worker is closed.
        """
        answer: Future[T] = Future()

        def task() -> None:
            if self.closed:
                answer.cancel()
            if answer.set_running_or_notify_cancel():
                _settle(answer, do)

        self._add(task)
        return answer

    def call(self, do: Callable[[], T]) -> T:
        """Do it, and wait for what it returns or raises.

        A call from the worker's own thread, which is a part of something that is being
        done there, is done at once.

        Raises:
            ComigsError: If the worker is closed before it is begun.
        """
        if self._is_own_thread():
            return do()
        try:
            return self.submit(do).result()
        except CancelledError as error:
            raise _closed() from error

    def stream(self, make: Callable[[Left], Iterator[T]]) -> Iterator[T]:
        """The items of an iterator that is made and asked on the worker's thread.

        It begins with the first item asked for, and goes on at its own speed; asked
        for on the worker's own thread, at the speed of who asks.

        Args:
            make: Given a function that tells whether to end early, because nobody
                listens any more or the worker is being closed.
        """
        if self._is_own_thread():
            yield from make(self._closed.is_set)
            return
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
        """End: what is being done is told to, what waits is cancelled."""
        with self._lock:
            self._closed.set()
            self._tasks.put(None)
        if not self._is_own_thread():
            self._thread.join(CLOSING_SECONDS)

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _add(self, task: Callable[[], None]) -> None:
        def counted() -> None:
            try:
                task()
            finally:
                with self._lock:
                    self._unfinished -= 1

        with self._lock:
            if self._closed.is_set():
                raise _closed()
            self._unfinished += 1
            self._tasks.put(counted)


def _closed() -> ComigsError:
    return ComigsError("the engine is closed: start the program again")


def _settle(answer: Future[T], do: Callable[[], T]) -> None:
    """Put what a call returns or raises into its future, which is running."""
    try:
        answer.set_result(do())
    except BaseException as error:
        answer.set_exception(error)


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
