"""Compare: four answers to one question, on an engine of plain data."""

import shutil

import pytest

from app.actions.compare import SIDES, CompareActions
from app.remedies import Mendable
from comigs_mlx.errors import ConfigError

SESSION = {"id": "b" * 32}
DRAWING = (0.7, 0.95, 3, "")


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained(), tmp_path / "runs" / "notes")
    return tmp_path / "runs"


@pytest.fixture
def comparing(model_queue, folder, until):
    """(options of Parrot) -> the actions, what asks and waits, and the parrot."""

    def make(**options):
        desk, parrot = model_queue(**options)
        actions = CompareActions(desk, folder, "demo")

        def ask(text="one two"):
            actions.order(SESSION, {"ask": text}, "notes", *DRAWING)
            until(lambda: not told(actions)["active"])
            return told(actions)

        return actions, ask, parrot

    return make


def told(actions, epoch=0, since=0):
    return actions.changes({**SESSION, "epoch": epoch, "since": since})


def test_every_side_answers_with_one_seed(comparing):
    _, ask, parrot = comparing()
    answer = ask()
    assert [s.selection for _, s in parrot.asked] == list(SIDES)
    (seed,) = {s.seed for _, s in parrot.asked}
    assert isinstance(seed, int)
    assert [m for m, _ in parrot.asked] == [
        [{"role": "user", "content": "one two"}]
    ] * 4
    cards = answer["cards"]
    assert [c["title"] for c in cards] == list(SIDES.values())
    assert [c["share"] for c in cards] == [None, 0, 100, 25]
    assert {c["state"] for c in cards} == {"done"}
    assert cards[3]["remark"].startswith("Cut at the longest answer")
    assert cards[3]["text"] == "onetwoone"
    assert answer["prompt"] == "one two"


def test_an_answer_is_markdown_with_marks(comparing):
    _, ask, _ = comparing()
    card = ask("**bold** <i>")["cards"][2]
    ((index, html, marks),) = card["blocks"]
    assert (index, card["count"]) == (0, 1)
    assert "<strong>" in html
    assert "<i>" not in html
    assert {mark[3] for mark in marks} == {100}  # all of it is mine
    assert [mark[2] for mark in marks] == sorted(mark[2] for mark in marks)


def test_a_page_is_told_what_it_lacks_and_no_more(comparing):
    actions, ask, _ = comparing()
    first = ask()
    again = told(actions, first["epoch"], first["version"])
    assert again["cards"] == []
    assert ask()["epoch"] != first["epoch"]
    assert len(told(actions, first["epoch"], first["version"])["cards"]) == 4


def test_a_token_is_explained(comparing):
    actions, ask, _ = comparing()
    epoch = ask()["epoch"]
    token = actions.token({**SESSION, "epoch": epoch, "card": "auto", "piece": 1})
    assert token["text"] == "two"
    assert token["share"] == 0.25
    assert token["alternatives"] == [["two", 0.5], ["<i>", 0.25]]
    for wrong in [{"card": "auto", "piece": 9}, {"card": "no", "piece": 0}, {}]:
        with pytest.raises(ConfigError, match="no longer there"):
            actions.token({**SESSION, "epoch": epoch, **wrong})
    with pytest.raises(ConfigError, match="no longer there"):
        actions.token({**SESSION, "epoch": epoch + 1, "card": "auto", "piece": 0})


def test_one_side_that_fails_does_not_end_the_others(comparing):
    _, ask, parrot = comparing(problem=ConfigError("too long"))
    parrot.at = 1
    cards = ask()["cards"]
    assert [c["problem"] for c in cards] == ["too long"] * 4
    assert [c["tokens"] for c in cards] == [1] * 4


def test_a_side_that_is_not_there_says_so(comparing, monkeypatch):
    monkeypatch.setattr("tests.app.speaking.SELECTIONS", ["base", "specialist"])
    _, ask, parrot = comparing()
    cards = ask()["cards"]
    assert [s.selection for _, s in parrot.asked] == ["base", "specialist"]
    assert cards[1]["remark"] == cards[3]["remark"] == "This one has no such side."


def test_stopping_ends_all_of_it(comparing, until):
    actions, _, parrot = comparing(delay=0.05)
    actions.order(SESSION, {"ask": "one two three"}, "notes", 0.7, 0.95, 400, "")
    until(lambda: told(actions)["cards"][0]["tokens"])
    actions.order(SESSION, {"ask": "more"}, "notes", *DRAWING)
    assert len(told(actions)["cards"]) == 4  # those that are under way
    assert told(actions)["prompt"] == "one two three"
    actions.order(SESSION, {"stop": True}, "notes", *DRAWING)
    until(lambda: not told(actions)["active"])
    remarks = [card["remark"] for card in told(actions)["cards"]]
    assert remarks == ["Stopped.", *["Stopped before its turn."] * 3]


def test_without_a_run_there_is_nobody_to_compare(comparing):
    actions, _, _ = comparing()
    for text, run, why, remedy in [
        ("one", "", "choose who you talk to first", "who"),
        (" ", "notes", "Write something first", None),
        ("one", "../x", "no run of that name", "reload"),
    ]:
        actions.order(SESSION, {"ask": text}, run, *DRAWING)
        status = told(actions)["status"]
        assert why in status["text"]
        assert status["bad"]
        assert (status["remedy"] and status["remedy"]["name"]) == remedy


def test_a_run_that_cannot_be_loaded_is_told_in_every_card(comparing, folder, until):
    actions, _, parrot = comparing()
    gone = Mendable("gone", "who")
    parrot.choose = lambda *given, **more: (_ for _ in ()).throw(gone)
    actions.order(SESSION, {"ask": "one"}, "notes", *DRAWING)
    until(lambda: not told(actions)["active"])
    for card in told(actions)["cards"]:
        assert card["problem"] == "gone"
        assert card["remedy"] == {"name": "who", "label": "Choose who you talk to"}


@pytest.mark.parametrize(
    "question", [None, {}, {"id": "x", "epoch": "0", "since": 0}, {"epoch": 0}, [1]]
)
def test_questions_that_are_none(comparing, question):
    with pytest.raises(ConfigError, match="expected id, epoch and since"):
        comparing()[0].changes(question)
