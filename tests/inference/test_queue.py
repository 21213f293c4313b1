"""One engine for all who ask: one job at a time, and what it is doing is known."""

import threading
from concurrent.futures import wait

import pytest

from comigs_mlx.errors import ComigsError, ModelError
from comigs_mlx.inference.queue import ModelQueue
from comigs_mlx.inference.worker import Worker


class Engine:
    """What a queue needs of an engine."""

    def __init__(self, say):
        self.say, self._worker = say, Worker()
        self.unfinished = 0

    def submit(self, job):
        self.unfinished += 1
        done = self._worker.submit(lambda: job(self))
        done.add_done_callback(self._count)
        return done

    def _count(self, done):
        self.unfinished -= 1

    def close(self):
        self._worker.close()


@pytest.fixture
def jobs():
    opened = ModelQueue(Engine, lambda error: f"the page says: {error}")
    yield opened
    opened.close()


def test_jobs_are_done_one_after_another(jobs):
    inside, order = threading.Lock(), []

    def job(number):
        assert inside.acquire(blocking=False)
        order.append(number)
        inside.release()

    done = [jobs.submit("x", lambda engine, i=i: job(i)) for i in range(20)]
    for one in done:
        one.result(5)
    assert order == list(range(20))
    assert jobs.status.state == "ready"


def test_the_status_tells_what_is_being_done(jobs):
    begun, go = threading.Event(), threading.Event()
    assert jobs.status.state == "starting"

    def job(engine):
        engine.say("loading SmolLM2")
        begun.set()
        return go.wait(5)

    done = jobs.submit("Loading the model", job)
    assert begun.wait(5)
    assert (jobs.status.state, jobs.status.text) == ("starting", "loading SmolLM2")
    assert jobs.queue == 1
    go.set()
    assert done.result(5)
    seen = jobs.submit("Answering", lambda engine: jobs.status).result(5)
    assert (seen.state, seen.text) == ("busy", "Answering")


def test_the_first_problem_stays_and_is_said_in_the_reader_s_words(jobs):
    def fail(engine):
        raise ModelError("no such model")

    with pytest.raises(ModelError):
        jobs.submit("Loading", fail).result(5)
    assert jobs.status.state == "problem"
    assert jobs.status.text == "the page says: no such model"
    jobs.submit("Answering", lambda engine: None).result(5)
    with pytest.raises(ModelError):  # told to who asked
        jobs.submit("Answering", fail).result(5)
    assert jobs.status.state == "ready"


def test_without_words_of_its_own_an_error_is_one_line():
    plain = ModelQueue(Engine)

    def fail(engine):
        raise ModelError("no such model\ntry demo")

    with pytest.raises(ModelError):
        plain.submit("Loading", fail).result(5)
    assert plain.status.text == "no such model try demo"
    plain.close()


def test_what_waits_is_cancelled_when_the_queue_closes(jobs):
    begun, go, done = threading.Event(), threading.Event(), []
    first = jobs.submit("Answering", lambda engine: (begun.set(), go.wait(10))[1])
    second = jobs.submit("Answering", lambda engine: done.append(1))
    assert begun.wait(5)
    jobs.before_end(go.set)
    jobs.close()
    assert first.result(5)
    wait([second], 5)
    assert second.cancelled()
    assert not done
    with pytest.raises(ComigsError):
        jobs.submit("Answering", lambda engine: None)
