"""Training in the background: real processes, found again, stopped and told about."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import tests.tiny as tiny
from comigs_mlx.errors import ComigsError, ConfigError, RunError
from comigs_mlx.options import train_config
from comigs_mlx.runs import process
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.listing import entry, metrics

SECONDS = 60.0


@pytest.fixture
def options(tiny_folder, text_folder):
    paths = {"model": str(tiny_folder()), "data": str(text_folder)}
    return {**tiny.TRAINING, **paths, "token_cache": False, "report_to": None}


@pytest.fixture
def run(tmp_path):
    """Where a run may be; what still trains there is ended."""
    folder = tmp_path / "run"
    yield folder
    child = process._children.pop(folder.resolve(), None)
    if child is not None:
        child.kill()
        child.wait()


def until(done, run):
    """The first state that is `done`."""
    end = time.monotonic() + SECONDS
    while not done(found := process.state(run)):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def ended(state):
    return not state.running


def test_lists_are_given_one_by_one():
    """So that a name may have a blank, and begin with a dash."""
    flags = process._flags({"me": ["Ann Weber", "-x"], "redact": True, "seed": None})
    assert flags == ["--me=Ann Weber", "--me=-x", "--redact"]
    assert train_config([*flags, "--run=r"]).data.reading.me == ("Ann Weber", "-x")


def test_trains_to_the_end(run, options):
    process.start(run, options)
    assert process.state(run).running
    with pytest.raises(RunError, match="is being trained already: stop that first"):
        process.start(run, options)
    found = until(ended, run)
    assert (found.exit_code, found.problem) == (0, None), found.lines
    assert found.progress == (6, 6)
    assert found.eta_seconds is None
    assert len(found.lines) <= 50
    assert found.lines[-1] == str(run)
    assert found.notes == []
    assert RunFolder(run).best() is not None
    assert [report["step"] for report in metrics(run)] == [4, 6]


def test_stops_saves_and_goes_on(run, options):
    """Steps are counted as they are made, not as they are reported."""
    process.start(run, {**options, "steps": 100_000, "report_every": 50_000})
    running = until(lambda state: state.progress and state.progress[0] > 1, run)
    assert running.running
    assert not metrics(run)
    assert running.progress[1] == 100_000
    assert running.eta_seconds is None or running.eta_seconds > 0
    assert entry(run).training
    process.stop(run)
    process.stop(run)  # a second signal would end it unsaved
    found = until(ended, run)
    assert found.problem is None
    assert not found.stopping
    step = entry(run).step
    assert any(f"stopped and saved at step {step}" in line for line in found.lines)
    process.start(run, {"resume": True, "steps": step + 2})
    found = until(ended, run)
    assert (found.exit_code, found.problem) == (0, None), found.lines
    assert found.progress == (step + 2, step + 2)


def test_is_found_again_by_another_process(run, options):
    """A page that was closed, and a program that was started anew."""
    start = (
        "import pathlib; from comigs_mlx.runs import process; "
        f"process.start(pathlib.Path({str(run)!r}), { ({**options, 'steps': 10**5})!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", start], check=True)
    until(lambda state: state.progress and state.progress[0], run)
    process.stop(run)
    found = until(ended, run)
    assert found.exit_code is None
    assert found.problem is None
    assert entry(run).step


def test_a_killed_one_is_told(run, options):
    process.start(run, {**options, "steps": 100_000})
    until(lambda state: state.progress and state.progress[0], run)
    os.kill(process._record(run)["pid"], signal.SIGKILL)
    found = until(ended, run)
    assert found.exit_code == -signal.SIGKILL
    assert found.problem == (
        "training ended before it was done (the system ended it, maybe for want of "
        "memory (SIGKILL)): resume it"
    )
    process._children.pop(run.resolve())  # another program knows the files alone
    told = process.state(run).problem
    assert told.startswith("training ended before it was done (it said last:")
    assert told.endswith("resume it")


def test_what_it_says_is_wrong_is_told(run, options, tmp_path):
    process.start(run, {**options, "data": str(tmp_path / "nothing.txt")})
    found = until(ended, run)
    assert found.exit_code == 2
    assert found.problem.startswith("no such file or folder")
    assert "error:" not in found.problem
    (run / process.LOG).write_text("nothing of this is read by a program\n")
    assert process.state(run).problem == found.problem


def test_what_its_user_should_know_is_told_and_lasts(run, options):
    process.start(run, {**options, "steps": 1, "router_every": 30})
    found = until(ended, run)
    assert found.problem is None
    assert any("the router will not be trained" in note for note in found.notes)
    process.start(run, {"resume": True, "steps": 40})  # nothing of the earlier one
    assert not any("will not be trained" in n for n in until(ended, run).notes)


@pytest.mark.parametrize(("steps", "done"), [(6, True), (7, False)])
def test_one_of_an_earlier_version_is_done_where_all_its_steps_are(
    run, trained, steps, done
):
    shutil.copytree(trained(), run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("steps: 6\n", f"steps: {steps}\n"))
    (run / process.RECORD).write_text(json.dumps({"pid": 1, "started": 2e9}))
    (run / process.LOG).write_text("step 6\n")
    assert (process.state(run).problem is None) is done


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"steps": 0}, "--steps 0 must be at least 1"),
        ({"steps": "many"}, "many"),
        ({"colour": "blue"}, "colour"),
        ({"resume": True}, "nothing to resume"),
    ],
)
def test_bad_options_start_nothing(run, options, wrong, text):
    with pytest.raises(ConfigError, match=text):
        process.start(run, {**options, **wrong})
    assert not run.exists()


def test_a_folder_that_is_taken_is_left_alone(run, options):
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists: add --resume"):
        process.start(run, options)
    assert [file.name for file in run.iterdir()] == ["mine.txt"]


def test_a_training_of_another_window_runs_but_is_not_stopped(run, options):
    with RunFolder(run).in_use():
        assert process.state(run).running
        with pytest.raises(RunError, match="in another window: stop it there"):
            process.stop(run)
        with pytest.raises(RunError, match="is being trained already"):
            process.start(run, options)
    assert not process.state(run).running


def test_nothing_was_ever_started(run):
    found = process.state(run)
    assert found == process.TrainingState(running=False)
    with pytest.raises(ComigsError, match="is not being trained"):
        process.stop(run)


def test_progress_of_an_older_training_is_not_that_of_this_one(run, options):
    run.mkdir()
    (run / "progress.json").write_text('{"step": 90, "steps": 100, "eta_seconds": 1.0}')
    os.utime(run / "progress.json", (1e9, 1e9))
    (run / process.RECORD).write_text(json.dumps({"started": 2e9}))
    (run / "config.yaml").write_text("steps: 200\n")
    found = process.state(run)
    assert (found.progress, found.eta_seconds) == ((0, 200), None)


def test_a_pause_is_seen_while_the_training_runs(run):
    run.mkdir()
    paused = '{"step": 9, "steps": 10, "eta_seconds": 1.0, "state": "paused: hot"}'
    (run / "progress.json").write_text(paused)
    (run / "config.yaml").write_text("steps: 10\n")
    with RunFolder(run).in_use():
        assert process.state(run).paused == "paused: hot"
    assert process.state(run).paused is None


def test_an_illegal_instruction_is_not_the_user_s_error(run, options):
    process.start(run, {**options, "steps": 100_000})
    until(lambda state: state.progress and state.progress[0], run)
    os.kill(process._record(run)["pid"], signal.SIGILL)
    assert "this processor does not have (SIGILL)" in until(ended, run).problem
