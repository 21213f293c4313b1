"""What the tabs' buttons do, on plain data and real runs of the tiny model."""

import dataclasses
import shutil

import pytest

from app.actions import runs
from app.remedies import Mendable
from comigs_mlx.runs.listing import RunEntry


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained(), tmp_path / "runs" / "notes")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "comigs.json").write_text("{}")
    return tmp_path / "runs"


def test_runs_are_told_apart(folder, tmp_path):
    labels = {"": "Base model only", "broken": "broken · broken"}
    assert runs.overview(folder).labels == {**labels, "notes": "notes · step 6"}
    assert runs.first(folder) == "notes"
    assert runs.find(folder, "notes") == folder / "notes"
    assert runs.find(folder, "") is None
    assert runs.first(tmp_path / "none") == ""


def test_a_first_training_is_not_called_broken(tmp_path, monkeypatch):
    entry = RunEntry("mine", tmp_path, problem="has no save: --resume", training=True)
    monkeypatch.setattr(runs, "entries", lambda folder: [entry])
    assert runs.overview(tmp_path).labels["mine"] == "mine · training"
    with pytest.raises(Mendable, match="being trained and has nothing saved yet"):
        runs.find(tmp_path, "mine")
    ended = dataclasses.replace(entry, training=False)
    monkeypatch.setattr(runs, "entries", lambda folder: [ended])
    assert runs.overview(tmp_path).labels["mine"] == "mine · broken"


@pytest.mark.parametrize("name", ["..", "../runs/notes", "/etc", "nothing", 3])
def test_only_listed_runs_can_be_chosen(folder, name):
    with pytest.raises(Mendable, match="no run of that name"):
        runs.find(folder, name)


def test_a_broken_run_says_why(folder):
    with pytest.raises(Mendable, match="broken cannot be used: "):
        runs.find(folder, "broken")


def test_a_list_of_runs_is_shared_for_a_moment(folder, monkeypatch):
    listed, clock = [], [0.0]
    entries = runs.entries

    def count(where):
        listed.append(where)
        return entries(where)

    monkeypatch.setattr(runs, "entries", count)
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    recent = runs.Recent(folder)
    assert [e.name for e in recent()] == ["broken", "notes"]
    recent()
    assert len(listed) == 1
    shutil.copytree(folder / "notes", folder / "other")
    clock[0] = runs.MOMENT + 0.1
    assert "other" in [e.name for e in recent()]
    assert len(listed) == 2
    shutil.copytree(folder / "notes", folder / "third")
    assert runs.find(folder, "third")  # who chooses one looks
