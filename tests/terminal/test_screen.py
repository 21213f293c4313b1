"""Colours are those of the page, and nothing else reaches the terminal but text."""

import io
import re
from importlib.resources import files

import pytest

from comigs_mlx.terminal.screen import (
    GREY,
    RESET,
    SHARED,
    SPECIALISTS,
    Screen,
    Tint,
    colour_system,
    escape,
    hues,
    lean,
    means,
    printable,
)

TWO = ["generalist", "specialist"]
FOUR = ["generalist", "generalist-1", "specialist", "specialist-1"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def full(colour):
    return "\x1b[38;2;{};{};{}m".format(*colour)


def test_colours_are_the_page_s():
    page = files("comigs_mlx.inference").joinpath("trace.html").read_text()
    blue = re.search(r'BLUE = "([\d ]+)"', page)[1]
    others = re.findall(r'"([\d ]+)"', re.search(r"OTHERS = \[(.*?)\]", page)[1])
    ours = [" ".join(map(str, colour)) for colour in (SHARED, *SPECIALISTS)]
    assert ours == [blue, *others]
    assert hues(FOUR) == [SHARED, SHARED, *SPECIALISTS[:2]]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "linux"}, "standard"),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "256"),
    ],
)
def test_a_terminal_shows_what_it_says_it_can(monkeypatch, environment, expected):
    for name in ("COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colour_system(Terminal()) == expected
    assert colour_system(Terminal(), wanted=False) is None
    assert colour_system(io.StringIO()) is None


@pytest.mark.parametrize(
    ("system", "code"),
    [
        ("truecolor", "\x1b[38;2;230;120;0m"),
        ("256", "\x1b[38;5;172m"),  # 16 + 36*4 + 6*2 + 0: (215, 135, 0)
        ("standard", "\x1b[33m"),
        (None, ""),
    ],
)
def test_a_colour_for_each_kind_of_terminal(system, code):
    assert escape(SPECIALISTS[0], system) == code
    assert escape(None, system) == ""


def test_sixteen_colours_tell_all_apart():
    codes = {escape(colour, "standard") for colour in (SHARED, *SPECIALISTS)}
    assert len(codes) == 1 + len(SPECIALISTS)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[1.0, 0.0], [1.0, 0.0]], -1.0),
        ([[0.5, 0.5], [0.0, 1.0]], 0.5),
        ([[0.4, 0.6]], 0.2),
        ([[0.0, 0.0]], 0.0),
        ([[2.0, 3.0]], 1.0),  # weights of one's own need not add up to 1
        ([], 0.0),
    ],
)
def test_a_lean_is_the_specialists_share_of_all_layers(weights, expected):
    assert lean(means(weights, 2), TWO) == pytest.approx(expected)


class TestTint:
    def test_is_by_the_leading_side_and_specialist(self):
        tint = Tint(FOUR, "truecolor")
        assert tint([[0.6, 0.3, 0.1, 0.0]]) == full(SHARED)
        assert tint([[0.1, 0.0, 0.3, 0.6]]) == full(SPECIALISTS[1])
        assert tint([[0.1, 0.0, 0.6, 0.3]]) == full(SPECIALISTS[0])

    def test_is_relative_to_the_strongest_lean_so_far(self):
        tint = Tint(TWO, "truecolor")
        nearly = [[0.4, 0.6]]  # a lean of 0.2, of at least 0.25: in full
        assert tint(nearly) == full(SPECIALISTS[0])
        assert tint([[0.48, 0.52]]) == ""
        assert tint([[1.0, 0.0]]) == full(SHARED)
        assert tint(nearly) == ""
        weak = tuple((a + b) // 2 for a, b in zip(SPECIALISTS[0], GREY, strict=True))
        assert tint([[0.25, 0.75]]) == full(weak)

    def test_of_the_base_or_without_colours_is_none(self):
        assert Tint(TWO, "truecolor")([[0.0, 0.0]]) == ""
        assert Tint([], "truecolor")([]) == ""
        assert Tint(TWO, None)([[0.0, 1.0]]) == ""


HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x9b31md\x00\x7f\u0085e\tf\ng"


def test_what_a_terminal_obeys_is_left_out():
    assert printable(HOSTILE) == "a[2J]0;titlebc31mde\tf\ng"
    assert printable("naïve 日本 🙂 ﷽") == "naïve 日本 🙂 ﷽"


class TestScreen:
    @pytest.fixture
    def told(self):
        return []

    @pytest.fixture
    def screen(self, told):
        return Screen(told.append, lambda line: told.append(f"|{line}|"))

    def test_escape_sequences_come_from_the_colours_alone(self, screen, told):
        for letter in HOSTILE:  # however tokens divide it
            screen.piece(letter, full(SHARED))
        screen.note(HOSTILE)
        shown = "".join(told)
        assert shown.replace(full(SHARED), "").replace(RESET, "").count("\x1b") == 0
        assert re.findall(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]", shown) == []

    def test_a_colour_is_told_once_and_ended(self, screen, told):
        for text, colour in [("a", "<1>"), ("b", "<1>"), ("c", ""), ("d", "<2>")]:
            screen.piece(text, colour)
        screen.end()
        assert "".join(told) == f"<1>ab{RESET}c<2>d{RESET}\n"

    def test_a_remark_has_a_line_of_its_own(self, screen, told):
        screen.piece("half")
        screen.note("remark")
        screen.piece("whole\n")
        screen.note("remark")
        assert told == ["half", "\n", "|remark|", "whole\n", "|remark|"]
