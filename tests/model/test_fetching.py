"""A download is watched by what is on the disk, and ended by its user."""

import sys

import pytest

from comigs_mlx.model import fetching
from comigs_mlx.model.fetching import Fetching


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """(program) -> a download of 1,000 bytes that runs it, and its folder."""
    monkeypatch.setattr(fetching, "place", lambda model_id: tmp_path)

    def start(program):
        return Fetching("ann/small", 1000, [sys.executable, "-c", program])

    return start, tmp_path


def test_bytes_are_counted_until_all_are_here(fake):
    start, folder = fake
    waiting = start("import time; time.sleep(60)")
    (folder / "blob.incomplete").write_bytes(b"x" * 400)
    assert (waiting.state.running, waiting.state.done) == (True, 400)
    (folder / "blob").write_bytes(b"x" * 4000)
    assert waiting.state.done == 1000
    waiting.cancel()
    waiting.cancel()
    assert not waiting.state.running
    assert waiting.state.cancelled
    assert waiting.state.problem is None


def test_the_end_and_a_problem_are_told(fake):
    start, _ = fake
    done = start("pass")
    done._process.wait()
    assert (done.state.done, done.state.problem) == (1000, None)
    failed = start("import sys; sys.exit('no such model <b>')")
    failed._process.wait()
    assert failed.state.problem == "no such model <b>"
    silent = start("import sys; sys.exit(3)")
    silent._process.wait()
    assert silent.state.problem == fetching.UNSAID


def test_the_process_fetches_and_says_in_one_line_what_is_wrong(
    tiny_folder, tmp_path, capsys
):
    assert fetching.main([str(tiny_folder())]) == 0
    assert fetching.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a model folder" in line
