"""A change of a whole run is all or nothing, wherever the process is killed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.files import sweep
from comigs_mlx.runs import versions
from comigs_mlx.runs.place import Place
from tests.runs import killed_change
from tests.runs.compare import tree

SCRIPT = Path(killed_change.__file__)
ROOT = SCRIPT.parents[2]


@pytest.fixture
def folder(tmp_path):
    """A run's files, and two that belong to no version."""
    folder = tmp_path / "run"
    for name in ("generalist", "specialist", "router", "state/step-0000004", "best/b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "values.safetensors").write_text(f"old {name}")
    (folder / "comigs.json").write_text("{}")
    (folder / "config.yaml").write_text("specialists: 1\n")
    (folder / "metrics.jsonl").write_text('{"step": 6}\n')
    (folder / "federation.json").write_text("what others know of this run")
    (folder / "privacy.jsonl").write_text("what was spent")
    (folder / "state/rounds").mkdir()
    (folder / "state/rounds/own-1.safetensors").write_text("what was contributed")
    return folder


def content(folder):
    """The files of the run itself: without the versions that are kept."""
    found = tree(folder)
    return {name: raw for name, raw in found.items() if not name.startswith("before/")}


def after(folder):
    whole = shutil.copytree(folder, folder.with_name("whole"))
    killed_change.change(whole)
    return content(whole)


def killed(folder, verb):
    """Count -> the folder that a process killed at this file operation has left."""
    every = "1" if os.environ.get("COMIGS_LONG") == "1" else "3"
    argv = [sys.executable, SCRIPT, folder, verb, every]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=environment, check=True, capture_output=True)
    return {n: folder.with_name(f"{folder.name}-{n}") for n in json.loads(done.stdout)}


def test_a_change_replaces_all_and_keeps_what_belongs_to_no_version(folder):
    before = content(folder)
    killed_change.change(folder)
    now = content(folder)
    assert now["comigs.json"] == b'{"new": true}'
    assert now["state/step-0000006/values.safetensors"] == b"new state/step-0000006"
    gone = {"state/step-0000004/values.safetensors", "best/b/values.safetensors"}
    assert before.keys() - now.keys() == gone
    others = ("federation.json", "privacy.jsonl", "state/rounds/own-1.safetensors")
    for name in ("metrics.jsonl", *others):
        assert now[name] == before[name]
    (version,) = versions.versions(folder)
    assert (version.command, version.step, version.what) == ("grow", 6, "one more")


def test_undone_it_is_what_it_was_and_nothing_is_left(folder):
    before = tree(folder)
    killed_change.change(folder)
    with (folder / "metrics.jsonl").open("a") as opened:  # it was trained meanwhile
        opened.write('{"step": 7}\n')
    (folder / "privacy.jsonl").write_text("what was spent, and more")
    versions.undo(folder, versions.versions(folder)[-1])
    spent = before | {"privacy.jsonl": b"what was spent, and more"}
    assert tree(folder) == spent
    assert not (folder / "before").exists()


def test_changes_are_undone_one_after_the_other(folder):
    first = content(folder)
    killed_change.change(folder)
    second = content(folder)
    with versions.changing(folder, "prune", 8, "one fewer") as new:
        versions.copy_all(folder, new)
        (new / "config.yaml").write_text("specialists: 0\n")
    assert [v.command for v in versions.versions(folder)] == ["grow", "prune"]
    versions.undo(folder, versions.versions(folder)[-1])
    assert content(folder) == second
    versions.undo(folder, versions.versions(folder)[-1])
    assert content(folder) == first


def test_an_error_while_writing_changes_nothing(folder):
    before = tree(folder)

    def failing():
        with versions.changing(folder, "grow", 6, "one more") as new:
            (new / "comigs.json").write_text("half")
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        failing()
    assert tree(folder) == before


@pytest.mark.parametrize("verb", ["change", "undo"])
def test_killed_anywhere_it_is_the_one_or_the_other(folder, verb):
    old, new = content(folder), after(folder)
    if verb == "undo":
        killed_change.change(folder)
    start, goal = (old, new) if verb == "change" else (new, old)
    seen = []
    for count, copy in killed(folder, verb).items():
        decided = versions.is_pending(copy)
        Place(copy).settle()
        with Place(copy).in_use():  # which puts back what was set aside
            sweep(copy)  # as a training does at its start
        found = content(copy)
        assert found in (start, goal), count
        assert not decided or found == goal
        assert not versions.is_pending(copy)
        seen.append(found == goal)
        if verb == "change" and found == goal:  # and the way back is there
            versions.undo(copy, versions.versions(copy)[-1])
            assert content(copy) == old
        elif verb == "change":
            assert versions.versions(copy) == []
    assert len(seen) > 20
    assert seen == sorted(seen)  # first the old one, from some point on the new one
    assert not seen[0]
    assert seen[-1]


def test_a_stray_file_that_decides_is_refused(folder):
    other = folder.with_name("other")
    other.mkdir()
    (other / "config.yaml").write_text("steps: 0\n")
    decided = {"format_version": 1, "source": "../other"}
    (folder / versions.DECIDED).write_text(json.dumps(decided))
    with (
        pytest.raises(RunError, match="is no change of this run: remove it"),
        Place(folder).in_use(),
    ):
        pass
    assert (folder / "config.yaml").read_text() == "specialists: 1\n"
    assert other.is_dir()


def test_where_the_disk_has_no_links_files_are_copied(folder, monkeypatch):
    def refused(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    before = tree(folder)
    killed_change.change(folder)
    versions.undo(folder, versions.versions(folder)[-1])
    assert tree(folder) == before
