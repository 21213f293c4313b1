"""Whatever a text says, it stays a text."""

from html.parser import HTMLParser

import pytest

from app import curves, render

ATTACK = "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "made",
    [
        render.table((ATTACK,), [(ATTACK,)], ATTACK),
        render.facts({ATTACK: ATTACK}, ATTACK),
        render.note(ATTACK),
        render.problem(ATTACK),
        render.listing([ATTACK], ATTACK),
        render.bar(1, 2, ATTACK),
        curves.chart(ATTACK, {ATTACK: [(0, 1), (1, 2)]}, ATTACK, ATTACK),
        curves.chart(ATTACK, {}, ATTACK, ATTACK),
    ],
)
def test_texts_are_escaped(made):
    found = Tags()
    found.feed(made)
    assert not found.seen & {"img", "script"}
    assert ATTACK in found.text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds, text):
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (2_000_000, "2 MB")]
)
def test_sizes(count, text):
    assert render.size(count) == text


def test_what_is_learnt_is_marked_and_escaped():
    shown = render.masked([[("<a>", False), (ATTACK, True)]], "Samples")
    assert "<li>&lt;a&gt;<mark>&quot;&#x27;&gt;&lt;img" in shown
    assert "<img" not in shown
    assert render.masked([], "Samples") == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (3, "10 s"),
        (84, "1 min 20 s"),
        (311, "5 min"),
        (671, "10 min"),
        (1336, "20 min"),
        (8100, "2 h 15 min"),
    ],
)
def test_a_guess_is_no_finer_than_it_is_known(seconds, told):
    assert render.roughly(seconds) == told
