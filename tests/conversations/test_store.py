"""Conversations on disk: for nobody else, never half, never in the way."""

import json
import os
import time

import pytest

from comigs_mlx.conversations import disk
from comigs_mlx.conversations.store import Store
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation
from comigs_mlx.errors import ConfigError

ID, OTHER, THIRD = "a" * 32, "b" * 32, "c" * 32
TOKENS = [Said(1, "Hi", packed=b"\x10\x27\x00\x00"), Said(2, "!", finish="stop")]


def talk(text="hello", id=ID, run="notes", changed=None):
    """A conversation of one message and its answer."""
    tree = Conversation(id)
    answer = tree.answer_to(tree.ask(text, None).id)
    answer.text, answer.answer.count, answer.answer.run = "Hi!", len(TOKENS), run
    answer.answer.end()
    tree.changed = tree.changed if changed is None else changed
    return tree


def kept(runs):
    """Everything in the folder, by path and kind of access."""
    return {
        path.relative_to(runs).as_posix(): path.stat().st_mode & 0o777
        for path in runs.rglob("*")
    }


def test_a_conversation_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / "runs")
    assert store.read(ID) is None
    assert store.write(Conversation(ID))
    assert not (tmp_path / "runs").exists()
    tree = talk("Grüße \ud83d\u2028<b>")
    tree.first, tree.turns[2].answer.settings = 1, {"temperature": 0.7}
    assert store.write(tree)
    assert store.write_tokens(ID, 2, TOKENS)
    again = Store(tmp_path / "runs")
    assert again.read(ID) == tree
    assert again.read_tokens(ID, 2) == TOKENS
    assert again.read_tokens(ID, 1) == []


def test_a_file_that_does_not_say_who_spoke_is_listed(tmp_path):
    Store(tmp_path).write(talk())
    file = tmp_path / ".conversations" / ID / "conversation.json"
    values = json.loads(file.read_text())
    assert values.pop("run") == "notes"
    file.write_text(json.dumps(values))
    (found,) = Store(tmp_path).listed()
    assert (found["id"], found["run"]) == (ID, "")


def test_the_texts_are_small_beside_the_tokens(tmp_path):
    store = Store(tmp_path)
    tree = talk()
    store.write(tree)
    store.write_tokens(ID, 2, TOKENS * 1000)
    assert (store.folder / ID / "conversation.json").stat().st_size < 1000


def test_nobody_else_on_the_machine_can_read_it(tmp_path):
    store = Store(tmp_path)
    old = os.umask(0)
    try:
        store.folder.mkdir()
        for id in (ID, OTHER):
            store.write(talk(id=id))
            store.write_tokens(id, 2, TOKENS)
        store.remove(OTHER)
    finally:
        os.umask(old)
    modes = kept(tmp_path)
    folders = {".conversations", f".conversations/{ID}", ".conversations/.trash"}
    assert folders < modes.keys()
    for path, mode in modes.items():
        assert mode == (0o600 if path.endswith(".json") else 0o700), path


def test_the_list_is_of_all_and_the_newest_first(tmp_path):
    store = Store(tmp_path)
    store.write(talk("one", ID, changed=10.0))
    store.write(talk("two", OTHER, run="", changed=30.0))
    store.write(talk("three", THIRD, changed=20.0))
    (store.folder / "notes.txt").write_text("somebody's")
    (store.folder / ("d" * 32)).symlink_to(store.folder / ID)
    found = store.listed()
    assert [one["title"] for one in found] == ["two", "three", "one"]
    assert found[1] == {
        "id": THIRD,
        "title": "three",
        "changed": 20.0,
        "run": "notes",
        "kept": True,
        "excerpt": "",
    }
    assert found[0]["run"] == ""
    store.write(talk("one, again", ID, changed=40.0))
    assert store.listed()[0]["title"] == "one, again"


def test_a_search_looks_into_titles_and_every_branch(tmp_path):
    store = Store(tmp_path)
    tree = talk("Où est le CAFÉ, in der Straße?")
    edited = tree.ask("something else", None)
    tree.answer_to(edited.id).text = "An answer on " + "long walks " * 20
    tree.rename("Paris")
    store.write(tree)
    store.write(talk("unrelated", OTHER))

    def found(query):
        return [one["title"] for one in store.listed(query)]

    for query in ("paris", "cafe\u0301 STRASSE", "WALKS long", " answer "):
        assert found(query) == ["Paris"], query
    assert found("cafe museum") == []
    assert len(found("")) == len(found(" ")) == 2
    assert store.listed("paris")[0]["excerpt"] == ""
    excerpt = store.listed("walks")[0]["excerpt"]
    assert "long walks" in excerpt
    assert excerpt.endswith("…")
    assert len(excerpt) < 130


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "no conversation"),
        ("[" * 100_000, "nested"),
        ('{"format_version": 3}', "a newer version wrote it"),
        ('{"format_version": 1}', "no conversation"),
        ('{"format_version": 2}', "missing"),
        ('{"format_version": 2, "turns": 3}', "int"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_as_it_is(tmp_path, text, why):
    store = Store(tmp_path)
    store.write(talk())
    file = store.folder / ID / "conversation.json"
    file.write_text(text)
    for act in (store.read, lambda id: store.rename(id, "x")):
        with pytest.raises(ConfigError, match=f"cannot be read .*{why}.*Begin a new"):
            act(ID)
    assert file.read_text() == text
    assert store.listed() == store.listed("hello") == []


def test_tokens_that_cannot_be_read_do_not_hide_the_words(tmp_path):
    store = Store(tmp_path)
    tree = talk()
    store.write(tree)
    (store.folder / ID / "2.tokens.json").write_text('{"format_version": 2}')
    assert store.read(ID) == tree
    with pytest.raises(ConfigError, match="cannot be read"):
        store.read_tokens(ID, 2)


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path):
    told = []
    store = Store(tmp_path, told.append)
    store.folder.write_text("in the way")
    assert not store.write(talk())
    assert not store.write_tokens(ID, 2, TOKENS)
    assert "Conversations cannot be kept" in store.problem
    assert told == [store.problem]
    store.folder.unlink()
    assert store.write(talk())
    assert store.problem == ""


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(talk())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comigs_mlx.files.os.replace", full)
    assert not store.write(talk("other"))
    assert "No space left" in store.problem
    with pytest.raises(ConfigError, match="No space left"):
        store.rename(ID, "x")
    assert store.read(ID).title == "hello"


def test_an_answer_that_the_end_of_the_app_cut_off_says_so(tmp_path):
    store = Store(tmp_path)
    tree = talk()
    answer = tree.answer_to(1)
    answer.text, answer.answer.experts = "H", ["specialist", "generalist"]
    store.write(tree)
    found = store.read(ID).turns[3]
    assert (found.text, found.answer.stopped) == ("H", True)
    assert "the app ended" in found.answer.remark
    store.write_tokens(ID, 3, TOKENS)  # it had ended, and nobody had written it down
    found = store.read(ID).turns[3]
    assert (found.text, found.answer.stopped) == ("Hi!", False)
    assert (found.answer.count, found.answer.share) == (2, 1.0)
    answer.text = "Hi! It went on"  # and that was cut off, with tokens of before
    store.write(tree)
    found = store.read(ID).turns[3]
    assert (found.text, found.answer.stopped) == (answer.text, True)


def test_of_too_many_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "MOST_CONVERSATIONS", 2)
    store = Store(tmp_path)
    for i, letter in enumerate("abc"):
        store.write(talk(id=letter * 32))
        os.utime(store.folder / (letter * 32), (i + 1, i + 1))
    store.write(talk(id="d" * 32))
    assert sorted(f.name[0] for f in store.folder.iterdir()) == ["c", "d"]


def test_of_too_many_bytes_tokens_go_before_words(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for i, letter in enumerate("abc"):
        store.write(talk(id=letter * 32))
        store.write_tokens(letter * 32, 2, TOKENS * 100)
        os.utime(store.folder / (letter * 32), (i + 1, i + 1))
    monkeypatch.setattr(disk, "MOST_BYTES", 8000)
    Store(tmp_path).write(talk(id="c" * 32))
    assert [bool(store.read_tokens(x * 32, 2)) for x in "abc"] == [False, False, True]
    assert len(store.listed()) == 3
    monkeypatch.setattr(disk, "MOST_BYTES", 1)
    Store(tmp_path).write(talk(id="b" * 32))  # the newest stays, whatever its size
    assert [f.name[0] for f in store.folder.iterdir()] == ["b"]


def test_what_killed_processes_left_goes(tmp_path):
    store = Store(tmp_path)
    store.write(talk())
    left = [
        store.folder / ID / f".conversation-{'0' * 16}.tmp.json",
        store.folder / f".{ID}-{'0' * 16}.tmp.json",
        store.folder / OTHER / "2.tokens.json",
    ]
    left[2].parent.mkdir()
    for file in left:
        file.write_text("half")
    Store(tmp_path).write(talk())
    assert all(file.exists() for file in left)  # perhaps of a process at work
    ago = time.time() - 2 * disk.ABANDONED
    for file in (*left, left[2].parent):
        os.utime(file, (1, ago))
    Store(tmp_path).write(talk())
    assert not any(file.exists() for file in left)
    assert sorted(f.name for f in store.folder.iterdir()) == [ID]


@pytest.mark.parametrize("id", ["../../x", "a" * 31, "A" * 32, "", None, 3])
def test_ids_lead_nowhere_else(tmp_path, id):
    store = Store(tmp_path)
    acts = (
        store.read,
        store.remove,
        store.restore,
        lambda id: store.write(talk(id=id)),
        lambda id: store.write_tokens(id, 2, TOKENS),
        lambda id: store.read_tokens(id, 2),
        lambda id: store.rename(id, "x"),
    )
    for act in acts:
        with pytest.raises(ConfigError, match="reload it"):
            act(id)
    assert kept(tmp_path) == {}


def test_what_was_removed_can_be_had_back(tmp_path):
    store = Store(tmp_path)
    tree = talk()
    store.write(tree)
    store.write_tokens(ID, 2, TOKENS)
    store.remove(ID)
    store.remove(ID)
    assert store.read(ID) is None
    assert store.listed() == []
    store.restore(ID)
    assert store.read(ID) == tree
    assert store.read_tokens(ID, 2) == TOKENS
    with pytest.raises(ConfigError, match="gone for good"):
        store.restore(ID)


def test_the_bin_is_emptied_after_a_day_and_holds_few(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "MOST_REMOVED", 2)
    store = Store(tmp_path)
    bin = store.folder / disk.BIN
    for i, letter in enumerate("abc"):
        store.write(talk(id=letter * 32))
        store.remove(letter * 32)
        os.utime(bin / (letter * 32), (1, time.time() - 10 + i))
    store.listed()
    assert sorted(f.name[0] for f in bin.iterdir()) == ["b", "c"]
    os.utime(bin / OTHER, (1, time.time() - disk.REMOVED_FOR - 1))
    store.listed()
    assert [f.name for f in bin.iterdir()] == [THIRD]


def test_one_that_went_on_after_its_removal_is_not_replaced(tmp_path):
    store = Store(tmp_path)
    store.write(talk("old"))
    store.remove(ID)
    store.write(talk("new"))
    store.restore(ID)
    assert store.read(ID).title == "new"
    store.remove(ID)
    assert store.read(ID) is None


def test_a_title_is_changed_and_nothing_else(tmp_path):
    store = Store(tmp_path)
    tree = talk(changed=10.0)
    store.write(tree)
    assert store.rename(ID, " My  talk ") == "My talk"
    found = store.read(ID)
    assert (found.title, found.named, found.changed) == ("My talk", True, 10.0)
    assert store.rename(ID, "") == "hello"
    with pytest.raises(ConfigError, match="no longer there"):
        store.rename(OTHER, "x")


class TestKeepingNothing:
    def test_writes_no_byte_and_forgets_nothing_meanwhile(self, tmp_path):
        store = Store(tmp_path, keeping=False)
        tree = talk("a secret")
        assert store.write(tree)
        assert store.write_tokens(ID, 2, TOKENS)
        assert kept(tmp_path) == {}
        assert store.read(ID) == tree
        assert store.read_tokens(ID, 2) == TOKENS
        assert [one["kept"] for one in store.listed("SECRET")] == [False]
        assert store.rename(ID, "mine") == "mine"
        store.remove(ID)
        assert store.listed() == []
        store.restore(ID)
        assert store.read(ID).title == "mine"
        assert kept(tmp_path) == {}
        assert Store(tmp_path).listed() == []

    def test_leaves_what_was_there(self, tmp_path):
        store = Store(tmp_path)
        store.write(talk())
        store.write(talk("other", OTHER))
        before = (store.folder / ID / "conversation.json").read_bytes()
        store.keeping = False
        tree = store.read(ID)
        tree.ask("a secret", tree.leaf)
        store.write(tree)
        assert len(store.read(ID).turns) == 3
        assert {one["id"]: one["kept"] for one in store.listed()} == {
            ID: False,
            OTHER: True,
        }
        assert (store.folder / ID / "conversation.json").read_bytes() == before

    def test_is_not_taken_back_for_what_was_said(self, tmp_path):
        store = Store(tmp_path, keeping=False)
        store.write(talk("a secret"))
        store.keeping = True
        store.write(talk("a secret"))
        store.write_tokens(ID, 2, TOKENS)
        store.write(talk("for all", OTHER))
        assert [one["title"] for one in Store(tmp_path).listed()] == ["for all"]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(b"secret" in file.read_bytes() for file in files)

    def test_is_bounded(self, tmp_path, monkeypatch):
        monkeypatch.setattr("comigs_mlx.conversations.unkept.MOST_CONVERSATIONS", 2)
        monkeypatch.setattr("comigs_mlx.conversations.unkept.MOST_TOKENS", 3)
        store = Store(tmp_path, keeping=False)
        for id in (ID, OTHER, THIRD):
            store.write(talk(id=id))
            store.write_tokens(id, 2, TOKENS)
        assert {one["id"] for one in store.listed()} == {OTHER, THIRD}
        assert [len(store.read_tokens(x, 2)) for x in (ID, OTHER, THIRD)] == [0, 0, 2]
