"""The pictures of a report: where marks lie, gaps, ticks, and texts as text."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.reports.chart import (
    LEFT,
    RIGHT,
    WIDTH,
    Line,
    Mark,
    curves,
    intervals,
    ticks,
)


def parsed(picture):
    """The picture as XML, which it must be."""
    return ElementTree.fromstring(picture.replace("…", "..."))


def points(line):
    return [tuple(map(float, p.split(","))) for p in line.get("points").split()]


class TestIntervals:
    MARKS = (
        Mark("one", 0.2, (0.1, 0.3), "shared"),
        Mark("two", -0.2, None, "own"),
        Mark("three", 0.0, (-0.1, 0.1), "plain"),
    )

    def test_marks_lie_in_proportion_around_zero(self):
        root = parsed(intervals(self.MARKS, "t", "a"))
        one, two, three = (float(c.get("cx")) for c in root.iter("circle"))
        zero = next(
            float(n.get("x1")) for n in root.iter("line") if n.get("class") == "zero"
        )
        assert three == zero
        assert one - zero == pytest.approx(zero - two, abs=0.2)
        first, second = (n for n in root.iter("line") if "error" in n.get("class", ""))
        assert float(first.get("x1")) == pytest.approx((zero + one) / 2, abs=0.2)
        assert float(second.get("x2")) - zero == pytest.approx(
            (one - zero) / 2, abs=0.2
        )

    @given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
    def test_all_lie_inside(self, values):
        marks = [Mark("m", v, (v - 0.1, v + 0.1), "own") for v in values]
        root = parsed(intervals(marks, "t", "a"))
        for node in root.iter("line"):
            assert LEFT <= float(node.get("x1")) <= WIDTH - RIGHT
            assert LEFT <= float(node.get("x2")) <= WIDTH - RIGHT


class TestCurves:
    def test_higher_is_larger_and_a_gap_parts_the_line(self):
        line = Line("l", [0.0, 0.1, None, 0.2, 0.2], "shared")
        root = parsed(curves([line], list("abcde"), "t", "a"))
        before, after = (points(node) for node in root.iter("polyline"))
        assert [len(before), len(after)] == [2, 2]
        assert before[0][1] > before[1][1] > after[0][1] == after[1][1]
        rise = before[0][1] - before[1][1]
        assert before[0][1] - after[0][1] == pytest.approx(2 * rise, abs=0.2)

    def test_no_block_and_no_difference_are_drawn(self):
        for values in ([], [None], [0.0, 0.0]):
            parsed(curves([Line("l", values, "own")], ["b"] * len(values), "t", "a"))

    def test_many_blocks_do_not_write_over_each_other(self):
        names = [str(i) for i in range(96)]
        root = parsed(curves([Line("l", [0.1] * 96, "own")], names, "t", "a"))
        assert sum(node.text in names for node in root.iter("text")) <= 24 + 8


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.1, [-0.3, -0.2, -0.1, 0, 0.1])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e3))
def test_there_are_few_ticks(low, width):
    assert 2 <= len(ticks(low, low + width)) <= 12


def test_texts_are_escaped():
    attack = "<b>\"&'"
    mark = intervals([Mark(attack, 0.1, None, "own")], attack, attack)
    curve = curves([Line(attack, [0.1], "own")], [attack], attack, attack)
    for picture in (mark, curve):
        assert "<b>" not in picture
        assert attack in [node.text for node in parsed(picture).iter("text")]
        svg = parsed(picture).find("svg")
        assert svg.get("aria-label") == attack
        assert not re.search(r"<script|on\w+=", picture)
