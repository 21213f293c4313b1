"""One job at a time, and errors in words for people."""

import threading

import pytest

from app.model_queue import OUT_OF_MEMORY, explain
from comigs_mlx.errors import ModelError


def test_jobs_are_done_one_after_another(model_queue):
    desk, _ = model_queue()
    inside = threading.Lock()

    def job(engine):
        assert inside.acquire(blocking=False)
        inside.release()

    for done in [desk.submit("x", job) for _ in range(20)]:
        done.result(5)
    assert desk.standing.state == "ready"


def test_the_standing_tells_what_is_being_done(model_queue, until):
    desk, _ = model_queue()
    go = threading.Event()
    done = desk.submit("Loading the model", lambda engine: go.wait(5))
    until(lambda: desk.standing.text == "Loading the model")
    assert desk.standing.state == "starting"
    desk.say("loading SmolLM2")
    assert desk.standing.text == "loading SmolLM2"
    assert desk.queue == 1
    go.set()
    done.result(5)


def test_a_problem_is_told(model_queue, until):
    desk, _ = model_queue()

    def job(engine):
        raise ModelError("no such model: try demo")

    with pytest.raises(ModelError):
        desk.submit("Loading", job).result(5)
    assert desk.standing.state == "problem"
    assert desk.standing.text == "no such model: try demo"


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


def test_the_unexpected_tells_no_text_on_the_page(capsys):
    told = explain(ValueError("secret diary"))
    assert "secret" not in told
    assert "ValueError" not in told
    assert "terminal" in told
    assert "secret diary" in capsys.readouterr().err
