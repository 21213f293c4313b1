"""What the sidebar shows: who can be talked to, chats by day, what is learning."""

import json
import os
import time
from datetime import datetime

import pytest

from app.actions.sidebar import SidebarActions, better, by_day, card, day
from comigs_mlx.runs.gain import Gain
from comigs_mlx.runs.listing import entry

NOON = datetime(2026, 5, 14, 12).timestamp()  # a Thursday
HOUR, DAY = 3600, 86400


class Store:
    """What keeps the conversations, with plain rows."""

    keeping, problem = True, ""

    def __init__(self):
        self.rows, self.asked = [], []

    def listed(self, query):
        self.asked.append(query)
        return self.rows


def chat(name, title, changed, kept):
    return {
        "id": name,
        "title": title,
        "changed": changed,
        "kept": kept,
        "excerpt": "",
    }


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def actions(store, tmp_path):
    ready = {"state": "ready", "text": "Ready"}
    return SidebarActions(tmp_path, "models/tiny", store, lambda: ready)


@pytest.mark.parametrize(
    ("ago", "told"),
    [
        (0, "today"),
        (13 * HOUR, "yesterday"),
        (2 * DAY, "Tuesday"),
        (6 * DAY, "Friday"),
        (7 * DAY, "7 May"),
        (365 * DAY, "14 May 2025"),
        (-DAY, "15 May"),
    ],
)
def test_a_day_is_named_as_people_name_it(ago, told):
    assert day(NOON - ago, NOON) == told


def test_chats_stand_under_their_days():
    now = time.time()
    chats = [
        chat("a", "new", now, False),
        {
            "id": "b",
            "title": "old",
            "changed": NOON - 400 * DAY,
            "kept": True,
            "excerpt": "",
        },
        {
            "id": "c",
            "title": "as old",
            "changed": NOON - 400 * DAY,
            "kept": True,
            "excerpt": "",
        },
    ]
    first, second = by_day(chats)
    assert first == {
        "day": "Today",
        "chats": [{"id": "a", "title": "new", "kept": False, "excerpt": ""}],
    }
    assert [chat["id"] for chat in second["chats"]] == ["b", "c"]


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ((3.0, 2.8), "18 % better than before on your text"),
        ((3.0, 3.1), "11 % worse than before on your text"),
        ((3.0, 3.001), "no better than before on your text"),
    ],
)
def test_what_training_gained_is_said_as_it_is(losses, told):
    assert better(Gain(*losses, 100)) == told


def test_a_card_says_when_and_how_well_a_run_learnt(run):
    folder = run("notes")
    values = {"step": 4, "base_loss": 3.0, "loss": 2.8, "tokens": 9}
    (folder / "held_out.jsonl").write_text(json.dumps(values) + "\n")
    shown = card(entry(folder))
    steps = entry(folder).step
    assert shown["lines"] == [
        f"learnt today, {steps} steps",
        "18 % better than before on your text",
    ]
    assert shown["state"] == "ready"


def test_a_broken_run_says_why_in_the_words_of_the_page(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "comigs.json").write_text('{"format_version": 99}')
    shown = card(entry(tmp_path / "old"))
    assert shown["state"] == "broken"
    assert "--" not in shown["lines"][0]


def test_the_newest_run_comes_first_and_the_base_last(actions, run, tmp_path):
    old, new = run("a-old"), run("z-new")
    for folder, when in ((old, NOON), (new, NOON + DAY)):
        for file in folder.rglob("*.safetensors"):
            os.utime(file, (when, when))
    actions.folder = old.parent
    names = [one["name"] for one in actions.state({})["who"]]
    assert names == ["z-new", "a-old", ""]


def test_what_the_page_has_is_not_sent_again(actions, store):
    first = actions.state({"query": "may"})
    assert store.asked == ["may"]
    again = actions.state({"query": "may", "known": first["mark"]})
    assert again == {"standing": first["standing"], "mark": first["mark"]}
    store.rows = [chat("a", "new", NOON, True)]
    assert actions.state({"known": first["mark"]})["days"][0]["chats"]
