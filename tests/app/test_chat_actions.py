"""What the chat's page asks for, on plain data: questions, orders, the list."""

import json
import shutil

import pytest

from app.actions.chat import ChatActions
from app.chat_settings import NAMES
from comigs_mlx.errors import ConfigError

NAME = "a" * 32
CHOSEN = ("notes", "auto", 0, 0.7, 0.95, 3, "")


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained(), tmp_path / "runs" / "notes")
    return tmp_path / "runs"


@pytest.fixture
def actions(model_queue, folder, until):
    queue, parrot = model_queue()
    made = ChatActions(queue, folder, "demo")
    made.parrot = parrot
    made.idle = lambda: until(lambda: not made.changes(asked(made))["active"])
    return made


def asked(actions, **values):
    return {"id": NAME, "epoch": 0, "since": 0, **values}


def test_a_conversation_goes_through_its_name(actions):
    session = {"id": NAME, "asked": ""}
    assert actions.send(session, "one two", *CHOSEN)["id"] == NAME
    actions.idle()
    user, answer = actions.changes(asked(actions, tint=True))["turns"]
    assert (answer["title"], answer["run"]) == ("Together", "notes")
    assert len(answer["blocks"][0]) == 3
    for order in (
        {"do": "retry", "turn": answer["id"]},
        {"do": "continue", "turn": answer["id"]},
        {"do": "edit", "turn": user["id"], "text": "three"},
        {"do": "send", "text": "four"},
    ):
        actions.command(session, order, *CHOSEN)
        actions.idle()
    turns = actions.changes(asked(actions))["turns"]
    assert [t["text"] for t in turns if t["role"] == "user"] == ["three", "four"]
    actions.show(asked(actions, turn=user["id"]))
    # nothing went: the retried answer, and the first one beside it
    assert actions.changes(asked(actions))["turns"][1]["variants"][1] == 2
    assert actions.source(asked(actions, turn=user["id"])) == {"text": "one two"}
    actions.rate(asked(actions, turn=answer["id"], rating=-1))
    assert actions.whole(asked(actions, turn=answer["id"]))["rating"] == -1
    found = actions.marks(asked(actions, turn=answer["id"], layer=2))
    assert len(found["layers"]) == 4
    assert actions.token(asked(actions, turn=answer["id"], piece=0))["text"]


def test_who_began_an_answer_goes_on_with_it(actions):
    session = {"id": NAME, "asked": ""}
    only_me = ("notes", "specialist", 0, 0.7, 0.95, 2, "")
    actions.send(session, "one", *only_me)
    actions.idle()
    answer = actions.changes(asked(actions))["turns"][-1]
    order = {"do": "continue", "turn": answer["id"]}
    actions.command(session, order, "", "base", 3, 0.7, 0.95, 2, "")
    actions.idle()
    assert actions.parrot.asked[-1][1].selection == "specialist"


def test_the_untrained_model_speaks_where_nobody_is_chosen(actions):
    for experts in ("auto", "specialist", "generalist", "base"):
        made = actions.options("", experts, 2, 0.7, 0.95, 3, "")
        assert (made.title, made.lean) == (NAMES["base"], None)
        made.check()
    made = actions.options("notes", "auto", 2, 0.7, 0.95, 3, "")
    assert made.lean == 2
    assert actions.options("notes", "specialist", 2, 0.7, 0.95, 3, "").lean is None


@pytest.mark.parametrize(
    "question", [None, {}, {"id": "x", "epoch": "0", "since": 0}, {"epoch": 0}, [1]]
)
def test_questions_that_are_none(actions, question):
    with pytest.raises(ConfigError, match="out of date: reload it"):
        actions.changes(question)


@pytest.mark.parametrize("name", ["x", "../" + "a" * 29, None, "A" * 32])
def test_names_that_could_be_guessed_are_none(actions, name):
    for act in (actions.forget, actions.restore, actions.save, actions.stop):
        with pytest.raises(ConfigError, match="out of date: reload it"):
            act({"id": name, "kind": "html"})


def test_the_list_finds_renames_and_gives_back(actions):
    session = {"id": NAME, "asked": ""}
    actions.send(session, "the mill at night", *CHOSEN)
    actions.idle()
    (one,) = actions.listed({})
    assert (one["id"], one["title"], one["run"]) == (NAME, "the mill at night", "notes")
    assert actions.rename({"id": NAME, "title": " My  mill "}) == {"title": "My mill"}
    assert [one["title"] for one in actions.listed({"query": "NIGHT"})] == ["My mill"]
    assert actions.listed({"query": "weir"}) == []
    actions.forget({"id": NAME})
    assert actions.listed({}) == []
    assert actions.changes(asked(actions))["path"] == []
    actions.restore({"id": NAME})
    assert len(actions.changes(asked(actions))["path"]) == 2
    with pytest.raises(ConfigError, match="Write a name first"):
        actions.rename({"id": NAME, "title": "  "})


def test_what_is_not_to_be_kept_leaves_no_file(actions, folder):
    assert actions.keep({}) == {"keeping": True}
    assert actions.keep({"keeping": False}) == {"keeping": False}
    actions.send({"id": NAME, "asked": ""}, "a secret", *CHOSEN)
    actions.idle()
    assert not (folder / ".conversations").exists()
    assert len(actions.changes(asked(actions))["path"]) == 2


def test_a_conversation_is_given_away_as_a_file(actions):
    actions.send({"id": NAME, "asked": ""}, "the <b>mill</b>", *CHOSEN)
    actions.idle()
    made = {
        kind: actions.save(asked(actions, kind=kind))
        for kind in ("markdown", "html", "json")
    }
    names = [one["name"] for one in made.values()]
    assert names == ["the-b-mill-b.md", "the-b-mill-b.html", "the-b-mill-b.json"]
    assert made["html"]["text"].startswith("<!doctype html>")
    assert "<b>mill" not in made["html"]["text"]
    messages = json.loads(made["json"]["text"])["messages"]
    assert messages[0] == {"role": "user", "content": "the <b>mill</b>"}
    with pytest.raises(ConfigError, match="out of date"):
        actions.save(asked(actions, kind="exe"))


def test_whoever_started_the_app_is_told_that_nothing_can_be_kept(actions, capsys):
    actions.store.folder.write_text("in the way")
    actions.send({"id": NAME, "asked": ""}, "one", *CHOSEN)
    actions.idle()
    assert capsys.readouterr().err.count("Conversations cannot be kept") == 1
