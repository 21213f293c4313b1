"""The model's errors in words for people; the queue's own tests are the library's."""

import pytest

from app.model_queue import GPU_WATCHDOG, OUT_OF_MEMORY, explain
from comigs_mlx.errors import ModelError


def test_a_problem_is_told_in_the_words_of_the_page(model_queue):
    jobs, _ = model_queue()

    def job(engine):
        raise ModelError("no such model: give another one with --model")

    with pytest.raises(ModelError):
        jobs.submit("Loading", job).result(5)
    assert jobs.status.state == "problem"
    assert jobs.status.text == "no such model: give another one with Base model"


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
