"""Look at a text: what is told of a text that was read, on an engine of plain data."""

import shutil

import pytest

from app.actions import look
from app.actions.look import LookActions
from app.remedies import Mendable
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Scored, ScoredToken

SESSION = {"id": "c" * 32}


@pytest.fixture
def folder(trained, tmp_path):
    for name in ("notes", "letters"):
        shutil.copytree(trained(), tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def looking(model_queue, folder, until):
    """() -> the actions, what asks and waits, and the parrot."""

    def make(**options):
        desk, parrot = model_queue(**options)
        actions = LookActions(desk, folder, "demo")

        def ask(**order):
            actions.order(SESSION, order, "notes")
            until(lambda: not told(actions)["active"])
            return told(actions)

        return actions, ask, parrot

    return make


def told(actions, epoch=0, since=0):
    return actions.changes({**SESSION, "epoch": epoch, "since": since})


def test_a_text_is_told_by_piece_and_layer(looking):
    actions, ask, parrot = looking()
    answer = ask(text="a b c")
    (reading,) = answer["readings"]
    assert reading["title"] == "notes"
    assert [name for name, _ in reading["figures"]] == list(look.SIDES.values())
    assert [piece["text"] for piece in reading["pieces"]] == ["a", "b", "c"]
    assert [piece["share"] for piece in reading["pieces"]] == [
        [share] * 5
        for share in (0, 25, 50)  # the mean, and four layers
    ]
    assert [piece["tint"][0] for piece in reading["pieces"]] == [-100, -50, 0]
    assert reading["pieces"][0]["surprise"] == [None] * 4
    assert reading["pieces"][1]["surprise"] == [2.718, 7.389, 20.09, 54.6]
    assert reading["routed"]
    assert answer["text"] == "a b c"
    assert told(actions, answer["epoch"], answer["version"])["readings"] is None


def test_two_texts_or_two_runs_side_by_side(looking):
    _, ask, parrot = looking()
    readings = ask(text="a b", other="c")["readings"]
    assert [len(one["pieces"]) for one in readings] == [2, 1]
    readings = ask(text="a b", other_run="letters")["readings"]
    assert [one["title"] for one in readings] == ["notes", "letters"]
    assert [run.name for run in parrot.chosen[-2:]] == ["notes", "letters"]


def test_a_token_is_explained_with_how_surprised_each_was(looking):
    actions, ask, _ = looking()
    asked = {**SESSION, "epoch": ask(text="a b")["epoch"], "reading": 0}
    token = actions.token({**asked, "piece": 1})
    assert (token["text"], token["position"]) == ("b", [2, 2])
    assert [name for name, _ in token["surprise"]] == list(look.SIDES.values())
    assert actions.token({**asked, "piece": 0})["surprise"] == []
    for wrong in [{"piece": 5}, {"piece": "0"}, {"piece": 0, "reading": 1}, {}]:
        with pytest.raises(ConfigError, match="no longer there"):
            actions.token({**asked, **wrong})


def scored(losses, weights):
    """A text of one token before those whose losses by selection are given."""
    first = dict.fromkeys(losses[0])
    rows = [ScoredToken(0, "x", [[0.5, 0.5]], first)]
    rows += [
        ScoredToken(i, " y", [list(pair)], each)
        for i, (each, pair) in enumerate(zip(losses, weights, strict=True))
    ]
    experts = ["generalist", "specialist"]
    return Scored("demo", rows, experts, ["layers.0.mlp"], dict.fromkeys(first, 1.0))


def test_the_oracle_takes_the_better_side_of_every_token():
    losses = [
        {"auto": 1.0, "generalist": 0.0, "specialist": 2.0},
        {"auto": 1.0, "generalist": 2.0, "specialist": 0.0},
    ]
    said = look.oracle(scored(losses, [(0.9, 0.1), (0.9, 0.1)]))
    assert "it would be 1;" in said  # exp of a mean loss of 0
    assert "together it is 2.72." in said
    assert "On 2 of 2 tokens" in said
    assert "on 50% of these the better one" in said
    one_sided = [{"auto": 1.0, "generalist": 0.0}]
    assert look.oracle(scored(one_sided, [(1, 0)])) == ""


def test_a_router_that_has_not_learnt_is_called_so():
    losses = [{"auto": 1.0, "generalist": 1.0, "specialist": 1.0}] * 3
    reading = look.Reading("notes", scored(losses, [(0.5, 0.5)] * 3))
    assert not reading.payload["routed"]
    assert {tint for p in reading.payload["pieces"] for tint in p["tint"]} == {0}
    assert "nowhere clearly differ" in reading.payload["oracle"]


def test_what_cannot_be_read_is_told_in_place(looking):
    actions, ask, parrot = looking()
    parrot.score = lambda *given, **more: (_ for _ in ()).throw(ConfigError("too long"))
    answer = ask(text="a")
    assert (answer["why"], answer["readings"]) == ("too long", [])
    assert answer["remedy"] is None
    changed = Mendable("changed", "reload")
    parrot.score = lambda *given, **more: (_ for _ in ()).throw(changed)
    answer = ask(text="b")
    assert (answer["why"], answer["remedy"]["name"]) == ("changed", "reload")
    for text, run, why, remedy in [
        ("a", "", "choose who you talk to first", "who"),
        ("", "notes", "Write something first", None),
    ]:
        actions.order(SESSION, {"text": text}, run)
        status = told(actions)["status"]
        assert why in status["text"]
        assert (status["remedy"] and status["remedy"]["name"]) == remedy


def test_reading_can_be_stopped(looking, until):
    actions, _, parrot = looking()
    parrot.score = stopping
    actions.order(SESSION, {"text": "a b"}, "notes")
    until(lambda: told(actions)["status"]["total"] == 10)
    actions.order(SESSION, {"text": "c"}, "notes")
    assert told(actions)["text"] == "a b"
    actions.order(SESSION, {"stop": True}, "notes")
    until(lambda: not told(actions)["active"])
    assert told(actions)["status"]["text"] == "Stopped."


def stopping(text, selections, stop, listen):
    """Reads until it is stopped."""
    from comigs_mlx.inference.replies import Watch

    while True:
        Watch(stop, listen).step("scoring", 4, 10)


def test_the_runs_that_can_read_are_named(looking):
    actions, _, _ = looking()
    assert [name for name, _ in actions.runs({})] == ["letters", "notes"]
