"""One job at a time, and errors in words for people."""

import threading

import pytest

from app.model_queue import GPU_WATCHDOG, OUT_OF_MEMORY, explain
from comigs_mlx.errors import ModelError


def test_jobs_are_done_one_after_another(model_queue):
    jobs, _ = model_queue()
    inside = threading.Lock()

    def job(engine):
        assert inside.acquire(blocking=False)
        inside.release()

    for done in [jobs.submit("x", job) for _ in range(20)]:
        done.result(5)
    assert jobs.status.state == "ready"


def test_the_status_tells_what_is_being_done(model_queue, until):
    jobs, _ = model_queue()
    go = threading.Event()
    done = jobs.submit("Loading the model", lambda engine: go.wait(5))
    until(lambda: jobs.status.text == "Loading the model")
    assert jobs.status.state == "starting"
    jobs.say("loading SmolLM2")
    assert jobs.status.text == "loading SmolLM2"
    assert jobs.queue == 1
    go.set()
    done.result(5)


def test_a_problem_is_told(model_queue, until):
    jobs, _ = model_queue()

    def job(engine):
        raise ModelError("no such model: try demo")

    with pytest.raises(ModelError):
        jobs.submit("Loading", job).result(5)
    assert jobs.status.state == "problem"
    assert jobs.status.text == "no such model: try demo"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes"),
        RuntimeError("[METAL] Command buffer failed: Insufficient Memory"),
    ],
)
def test_running_out_of_memory_is_said_plainly(error):
    assert explain(error) == OUT_OF_MEMORY


def test_the_gpu_s_watchdog_is_said_plainly():
    text = "[METAL] Command buffer execution failed: Impacting Interactivity"
    assert explain(RuntimeError(text)) == GPU_WATCHDOG


def test_the_unexpected_tells_no_text_on_the_page(capsys):
    told = explain(ValueError("secret diary"))
    assert "secret" not in told
    assert "ValueError" not in told
    assert "terminal" in told
    assert "secret diary" in capsys.readouterr().err


def test_what_waits_is_cancelled_when_the_queue_closes(model_queue, until):
    jobs, _ = model_queue()
    go, done = threading.Event(), []
    first = jobs.submit("Answering", lambda engine: go.wait(10))
    second = jobs.submit("Answering", lambda engine: done.append(1))
    until(lambda: jobs.status.text == "Answering")
    jobs.before_end(go.set)
    jobs.close()
    assert first.result(5)
    until(second.cancelled)
    assert not done
