"""Conversations of version 1 become trees, and nothing of them is lost on the way."""

import json
import os

import pytest

from comigs_mlx.conversations.store import Store
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.errors import ConfigError

ID = "a" * 32
HALF = b"\x88\x13" * 2


def reply(text, **values):
    """An answer as version 1 wrote it."""
    tokens = [Said(i, word, packed=HALF) for i, word in enumerate(text.split("_"))]
    names = {"title": "Mixture · notes", "base": "demo", "layers": ["model.layers.0"]}
    known = {"experts": ["generalist", "specialist"], "remark": "50 % · 2 tokens"}
    rest = {"problem": None, "stopped": False, "left_out": 0, "chat": True}
    kept = [token.as_json() for token in tokens]
    return {**names, **known, **rest, "tokens": kept, **values}


OLD = {
    "format_version": 1,
    "owner": "o" * 32,
    "title": "hello",
    "turns": [
        {"text": "hello", "reply": reply("Hi_!")},
        {"text": "and you?", "reply": reply("Fine_.")},
        {"text": "and you?", "reply": reply("Good_.", title="Base", experts=[])},
        {"text": "and they?", "reply": reply("Well_.", remark="")},
        {"text": "good morning", "reply": None},
    ],
    "shown": [0, 3],
    "earlier": [[4], [0, 1], [0, 2]],
}


@pytest.fixture
def old(tmp_path):
    """A store with a conversation of version 1, and its file."""
    store = Store(tmp_path)
    store.folder.mkdir(mode=0o700)
    file = store.folder / f"{ID}.json"
    file.write_text(json.dumps(OLD))
    os.utime(file, (1000, 1000))
    return store, file


def told(turn):
    """A turn and what followed it: role, text and what follows."""
    return (turn.text, turn.answer and turn.answer.title)


def test_earlier_versions_are_branches(old):
    store, file = old
    assert store.listed() == [
        {"id": ID, "title": "hello", "changed": 1000.0, "run": "notes"}
        | {"kept": True, "excerpt": ""}
    ]
    assert [one["id"] for one in store.listed("MORNING fine.")] == [ID]
    assert file.exists()  # a list changes nothing
    tree = store.read(ID)
    assert not file.exists()
    path = tree.path()
    assert [turn.text for turn in path] == ["hello", "Hi!", "and they?", "Well."]
    assert [told(t) for t in tree.variants(path[0].id)] == [
        ("good morning", None),
        ("hello", None),
    ]
    asked = tree.variants(path[2].id)
    assert [turn.text for turn in asked] == ["and you?", "and they?"]
    tree.show(asked[0].id)
    assert [told(t) for t in tree.variants(tree.leaf)] == [
        ("Fine.", "Together"),
        ("Good.", "Untrained"),
    ]
    assert [one["run"] for one in Store(store.folder.parent).listed()] == ["notes"]


def test_answers_keep_what_is_known_of_them(old):
    store, _ = old
    tree = store.read(ID)
    first, last = tree.path()[1], tree.path()[3]
    answer = first.answer
    assert (answer.title, answer.run, answer.base) == ("Together", "notes", "demo")
    assert (answer.count, answer.share, answer.remark) == (2, 0.5, "")
    assert [t.text for t in store.read_tokens(ID, first.id)] == ["Hi", "!"]
    assert store.read_tokens(ID, first.id)[0].packed == HALF
    assert last.answer.stopped
    assert "the app ended" in last.answer.remark


def test_an_old_answer_without_its_weights_is_no_answer_of_one_token(old):
    store, file = old
    thin = reply("Hi!", layers=[], remark="50 % · 2 tokens · no longer kept")
    turns = [{"text": "hello", "reply": thin}]
    file.write_text(json.dumps({**OLD, "turns": turns, "shown": [], "earlier": [[0]]}))
    tree = store.read(ID)
    assert [turn.text for turn in tree.path()] == ["hello", "Hi!"]
    assert tree.path()[1].answer.count == 2
    assert store.read_tokens(ID, tree.leaf) == []


def test_a_kill_at_any_moment_loses_nothing(old, monkeypatch):
    store, file = old
    whole = store._disk.peek(ID)
    content, steps = file.read_bytes(), 0
    real = os.replace

    class Killed(BaseException):
        pass

    def replace(source, target):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        real(source, target)

    monkeypatch.setattr("comigs_mlx.files.os.replace", replace)
    while file.exists():
        left = steps
        fresh = Store(store.folder.parent)
        try:
            fresh.read(ID)
        except Killed:
            assert file.read_bytes() == content
            assert Store(store.folder.parent)._disk.peek(ID) == whole
            assert len(fresh.listed()) == 1
        steps += 1
    assert steps > 5  # its answers, and its texts
    assert Store(store.folder.parent).read(ID) == whole


def test_an_old_file_beside_the_new_ones_goes(old):
    store, file = old
    content = file.read_bytes()
    tree = store.read(ID)
    tree.rename("renamed")
    store.write(tree)
    file.write_bytes(content)  # a process was killed before it removed it
    assert [one["title"] for one in store.listed()] == ["renamed"]
    assert store.read(ID).title == "renamed"
    assert not file.exists()


def test_where_nothing_can_be_written_it_is_read_all_the_same(old, monkeypatch):
    store, file = old

    def readonly(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("comigs_mlx.files.os.replace", readonly)
    tree = store.read(ID)
    assert tree.title == "hello"
    assert [t.text for t in store.read_tokens(ID, tree.path()[1].id)] == ["Hi", "!"]
    assert file.exists()


def test_it_can_be_removed_and_had_back(old):
    store, file = old
    store.remove(ID)
    assert not file.exists()
    assert store.listed() == []
    store.restore(ID)
    assert store.read(ID).title == "hello"


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"turns": [{"text": 3}]},
        {"shown": [7]},
        {"shown": "x"},
        {"turns": 3},
        {"title": None},
        {"turns": [{"text": "a", "reply": reply("x", tokens=[[1, 2]])}]},
    ],
)
def test_one_that_cannot_be_read_is_left_as_it_is(old, change):
    store, file = old
    file.write_text(json.dumps({**OLD, **change}))
    before = file.read_bytes()
    for act in (store.read, store.remove):
        with pytest.raises(ConfigError, match="cannot be read"):
            act(ID)
    assert file.read_bytes() == before
    assert store.listed() == []
    assert os.listdir(store.folder) == [file.name]
