"""RUN/progress.json: steps as they are made, at no cost to them."""

import json

import pytest

from comigs_mlx.runs import progress


@pytest.fixture
def clock(monkeypatch):
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_steps_after_the_first(tmp_path, clock):
    """The first one, which compiles, took 50 s; the others take 2 s each."""
    file = progress.ProgressFile(tmp_path, events=10, steps=6)
    clock[0] += 50
    for done in range(1, 5):
        file.advance(step=done)
        clock[0] += 2
    assert progress.read(tmp_path) == {
        "format_version": 1,
        "step": 4,
        "steps": 6,
        "eta_seconds": 6 * 2.0,
    }


def test_is_written_once_a_second_and_at_the_end(tmp_path, clock, monkeypatch):
    written = []
    real = progress.ProgressFile._write
    monkeypatch.setattr(
        progress.ProgressFile, "_write", lambda *a: (written.append(a[1]), real(*a))
    )
    file = progress.ProgressFile(tmp_path, events=40, steps=40)
    for step in range(1, 41):
        file.advance(step)
        clock[0] += 0.25
    assert written == [*range(1, 41, 4), 40]
    assert progress.read(tmp_path)["eta_seconds"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_is_gone_when_the_training_has_ended(tmp_path):
    with progress.ProgressFile(tmp_path, events=2, steps=2) as file:
        file.advance(1)
        assert progress.read(tmp_path)["step"] == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_stops_nothing(tmp_path):
    file = progress.ProgressFile(tmp_path / "gone", events=2, steps=2)
    file.advance(1)
    assert progress.read(tmp_path / "gone") == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_what_cannot_be_read_says_nothing(tmp_path, content):
    (tmp_path / progress.FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert progress.read(tmp_path) == {}


def test_of_an_older_training(tmp_path):
    (tmp_path / progress.FILE).write_text(json.dumps({"step": 3}))
    made = (tmp_path / progress.FILE).stat().st_mtime
    assert progress.read(tmp_path, since=made - 1) == {"step": 3}
    assert progress.read(tmp_path, since=made + 1) == {}


def test_a_pause_is_told_and_is_no_work(tmp_path, clock):
    file = progress.ProgressFile(tmp_path, events=10, steps=10)
    for step in (1, 2, 3):
        file.advance(step)
        clock[0] += 2
    file.pause(3, "on battery 24 %")
    clock[0] += 3600
    file.pause(3, "on battery 23 %")
    paused = {"format_version": 1, "step": 3, "steps": 10, "eta_seconds": 7 * 3.0}
    assert progress.read(tmp_path) == {**paused, "state": "paused: on battery 23 %"}
    file.go_on(3)
    assert progress.read(tmp_path) == paused
    clock[0] += 2
    file.advance(4)
    assert progress.read(tmp_path)["eta_seconds"] == pytest.approx(6 * 8 / 3)
