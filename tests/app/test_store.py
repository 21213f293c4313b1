"""Conversations on disk: for nobody else, never half, never in the way."""

import json
import os
import time

import pytest

from app import store as storing
from app.store import Store
from comigs_mlx.errors import ConfigError

NAME, OTHER = "a" * 32, "b" * 32
CONTENT = {"owner": "o" * 32, "title": "hello", "turns": [], "shown": [], "earlier": []}


def test_a_conversation_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / "runs")
    assert store.read(NAME) is None
    assert not (tmp_path / "runs").exists()
    assert store.write(NAME, {**CONTENT, "title": "Grüße \ud83d"})
    found = Store(tmp_path / "runs").read(NAME)
    assert found == {"format_version": 1, **CONTENT, "title": "Grüße \ud83d"}


def test_nobody_else_on_the_machine_can_read_it(tmp_path):
    old = os.umask(0)
    try:
        (tmp_path / storing.FOLDER).mkdir()
        Store(tmp_path).write(NAME, CONTENT)
    finally:
        os.umask(old)
    folder = tmp_path / storing.FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [f.stat().st_mode & 0o777 for f in folder.iterdir()] == [0o600]


def test_an_owner_sees_their_own_and_the_newest_first(tmp_path):
    store = Store(tmp_path)
    for name, owner in ((NAME, "x"), (OTHER, "y"), ("c" * 32, "x")):
        store.write(name, {**CONTENT, "owner": owner, "title": name[:1]})
    os.utime(tmp_path / storing.FOLDER / f"{NAME}.json", (1, 1))
    assert [one["title"] for one in store.listed("x")] == ["c", "a"]
    assert [one["name"] for one in store.listed("y")] == [OTHER]
    store.write(NAME, {**CONTENT, "owner": "x", "title": "new"})
    assert [one["title"] for one in store.listed("x")] == ["new", "c"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "no conversation"),
        ("[" * 100_000, "nested"),
        ('{"format_version": 2}', "a newer version wrote it"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_as_it_is(tmp_path, text, why):
    store = Store(tmp_path)
    store.write(NAME, CONTENT)
    file = tmp_path / storing.FOLDER / f"{NAME}.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"cannot be read .*{why}.*Begin a new one"):
        store.read(NAME)
    assert file.read_text() == text
    assert store.listed("o" * 32) == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, capsys):
    store = Store(tmp_path)
    (tmp_path / storing.FOLDER).write_text("in the way")
    assert not store.write(NAME, CONTENT)
    assert not store.write(NAME, CONTENT)
    assert "Conversations cannot be kept" in store.problem
    assert capsys.readouterr().err.count("cannot be kept") == 1
    (tmp_path / storing.FOLDER).unlink()
    assert store.write(NAME, CONTENT)
    assert store.problem == ""


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(NAME, CONTENT)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comigs_mlx.files.os.replace", full)
    assert not store.write(NAME, {**CONTENT, "title": "other"})
    assert "No space left" in store.problem
    assert store.read(NAME)["title"] == "hello"


def test_of_too_many_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "MOST_FILES", 2)
    store = Store(tmp_path)
    for i, letter in enumerate("abc"):
        store.write(letter * 32, CONTENT)
        os.utime(tmp_path / storing.FOLDER / f"{letter * 32}.json", (i + 1, i + 1))
    store.write("d" * 32, CONTENT)
    left = sorted(f.stem[0] for f in (tmp_path / storing.FOLDER).iterdir())
    assert left == ["c", "d"]
    monkeypatch.setattr(storing, "MOST_BYTES", 1)
    store.write("e" * 32, CONTENT)  # the newest stays, whatever its size
    assert [f.stem[0] for f in (tmp_path / storing.FOLDER).iterdir()] == ["e"]


def test_what_killed_processes_left_goes(tmp_path):
    store = Store(tmp_path)
    store.write(NAME, CONTENT)
    left = tmp_path / storing.FOLDER / f".{NAME}-{'0' * 16}.tmp.json"
    left.write_text("half")
    store.listed("x")
    assert left.exists()  # perhaps of a process at work
    os.utime(left, (1, time.time() - 2 * storing.ABANDONED))
    store.listed("x")
    assert not left.exists()


@pytest.mark.parametrize("name", ["../../x", "a" * 31, "A" * 32, ""])
def test_names_lead_nowhere_else(tmp_path, name):
    store = Store(tmp_path)
    for act in (store.read, store.remove, lambda n: store.write(n, CONTENT)):
        with pytest.raises(ConfigError, match="reload it"):
            act(name)


def test_a_removed_one_is_gone(tmp_path):
    store = Store(tmp_path)
    store.write(NAME, CONTENT)
    store.remove(NAME)
    store.remove(NAME)
    assert store.read(NAME) is None
    assert json.dumps(store.listed(CONTENT["owner"])) == "[]"
