"""One thread, one thing after another."""

import subprocess
import sys
import threading
import time

import mlx.core as mx
import pytest

from comigs_mlx.errors import ComigsError
from comigs_mlx.inference.worker import Worker


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def until(condition, seconds=10.0):
    """Wait for a condition of another thread, at most some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def test_everything_is_done_on_one_other_thread(worker):
    first = worker.call(threading.get_ident)
    streamed = worker.stream(lambda left: iter_of(threading.get_ident))
    assert {first, *streamed} == {first}
    assert first != threading.get_ident()


def iter_of(*calls):
    for call in calls:
        yield call()


def test_an_array_may_wait_from_call_to_call(worker):
    """What MLX forbids across threads, and why there is a worker."""
    array = worker.call(lambda: mx.arange(3) + 1)
    with pytest.raises(RuntimeError, match="no Stream"):
        mx.eval(array)
    assert worker.call(array.tolist) == [1, 2, 3]


def test_errors_come_to_who_asked_and_leave_the_worker_working(worker):
    def fail():
        raise ComigsError("no")

    with pytest.raises(ComigsError, match="no"):
        worker.call(fail)
    items = worker.stream(lambda left: iter_of(lambda: 1, fail))
    assert next(items) == 1
    with pytest.raises(ComigsError, match="no"):
        next(items)
    assert worker.call(lambda: 2) == 2


def held(worker):
    """The worker is busy until the event that is returned is set."""
    begun, go = threading.Event(), threading.Event()
    worker.submit(lambda: begun.set() or go.wait(30))
    assert begun.wait(10)
    return go


def test_who_waits_is_served_in_order(worker):
    go, done, threads = held(worker), [], []
    for number in range(4):
        thread = threading.Thread(
            target=worker.call, args=(lambda n=number: done.append(n),)
        )
        thread.start()
        threads.append(thread)
        until(lambda n=number: worker.unfinished == n + 2)
    go.set()
    for thread in threads:
        thread.join(10)
    assert done == [0, 1, 2, 3]


def test_a_stream_is_told_when_nobody_listens(worker):
    ended = threading.Event()

    def count(left):
        number = 0
        while not left():
            yield (number := number + 1)
        ended.set()

    items = worker.stream(count)
    assert [next(items), next(items)] == [1, 2]
    items.close()
    assert ended.wait(10)


def is_closed(worker):
    try:
        list(worker.stream(lambda left: iter(())))
    except ComigsError:
        return True
    return False


def test_a_stream_left_before_its_turn_never_begins(worker):
    go, begun = held(worker), []
    items = worker.stream(lambda left: iter_of(lambda: begun.append(1)))
    reader = threading.Thread(target=lambda: list(items))
    reader.start()
    until(lambda: worker.unfinished == 2)
    closer = threading.Thread(target=worker.close)  # it waits for the holder
    closer.start()
    until(lambda: is_closed(worker))
    go.set()
    closer.join(10)
    reader.join(10)
    assert not reader.is_alive()
    assert not begun


def test_closed_it_takes_nothing_and_is_busy_no_more(worker):
    worker.call(lambda: None)
    worker.close()
    worker.close()
    assert not worker.busy
    with pytest.raises(ComigsError, match="is closed: start the program again"):
        worker.call(lambda: None)
    with pytest.raises(ComigsError, match="is closed"):
        next(worker.stream(lambda left: iter(())))


def test_a_job_is_a_future(worker):
    assert worker.submit(lambda: 3).result(10) == 3
    failed = worker.submit(lambda: 1 / 0)
    assert isinstance(failed.exception(10), ZeroDivisionError)


def test_a_job_asks_the_worker_it_runs_on(worker):
    """Done at once: to wait for its own turn would be for ever."""

    def job():
        items = worker.stream(lambda left: iter_of(threading.get_ident, left))
        return [worker.call(threading.get_ident), *items]

    own, same, left = worker.submit(job).result(10)
    assert own == same != threading.get_ident()
    assert left is False


def test_a_stream_on_its_own_thread_is_told_of_the_end(worker):
    begun = threading.Event()

    def job():
        items = worker.stream(lambda left: iter(lambda: left(), True))
        return sum(1 for item in items if not begun.set())

    answer = worker.submit(job)
    assert begun.wait(10)
    worker.close()
    assert answer.result(10) >= 1


def test_what_waits_when_it_closes_is_cancelled(worker):
    go, done = held(worker), []
    waiting = worker.submit(lambda: done.append(1))
    told = []
    caller = threading.Thread(target=lambda: told.append(fails(worker)))
    caller.start()
    until(lambda: worker.unfinished == 3)
    threading.Timer(0.05, go.set).start()
    worker.close()
    caller.join(10)
    assert waiting.cancelled()
    assert not done
    assert told == ["the engine is closed: start the program again"]


def fails(worker):
    try:
        return worker.call(lambda: None)
    except ComigsError as error:
        return str(error)


def test_its_thread_gives_back_what_mlx_made_for_it(monkeypatch):
    threads = []
    monkeypatch.setattr(
        mx, "clear_streams", lambda: threads.append(threading.get_ident())
    )
    worker = Worker()
    own = worker.call(threading.get_ident)
    worker.close()
    until(lambda: threads)
    assert threads == [own]


PROGRAM = """
import comigs_mlx, mlx.core as mx
from comigs_mlx.inference.worker import Worker
worker = Worker()
worker.call(lambda: mx.eval(mx.ones((300, 300)) @ mx.ones((300, 300))))
worker.close()
"""


def test_programs_end_without_an_abort():
    """Two in five did not, where the thread kept its streams."""
    command = [sys.executable, "-c", PROGRAM]
    ended = [subprocess.run(command, capture_output=True) for _ in range(6)]
    assert [one.returncode for one in ended] == [0] * 6, ended[0].stderr
