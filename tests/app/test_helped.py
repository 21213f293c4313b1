"""Did it help me: what a report measured, in rows that say how sure it is."""

import pytest

from app import helped
from comigs_mlx.reports.background import Measured


def candidate(name, round=None, difference=None, ci95=None):
    against = None if difference is None else {"difference": difference, "ci95": ci95}
    return {"name": name, "round": round, "against_none": against}


REPORT = {
    "sharing": {
        "answer": "helps",
        "candidates": [
            candidate("none"),
            candidate("now", None, -0.05, [-0.08, -0.02]),
            candidate("own, of step 6, before joining", -1, 0.01, [-0.02, 0.04]),
            candidate("round 1", 1, 0.3, None),
        ],
    }
}
KEPT = {-1: "before joining, after 6 steps", 1: "in round 1", 2: "in round 2"}


def test_each_version_has_its_gain_and_how_sure_it_is():
    own, first, second, now = helped.rows(REPORT, KEPT)
    assert (own.number, first.number, second.number, now.number) == (-1, 1, 2, None)
    assert now.gain == pytest.approx(4.877, abs=0.001)
    assert now.ends == pytest.approx((1.980, 7.688), abs=0.001)
    assert first.ends is None
    assert second.gain is None  # fetched after the report


def test_the_answer_says_between_what():
    (*_, now) = helped.rows(REPORT, KEPT)
    assert helped.answer(REPORT, now, "notes") == (
        "Yes. With everyone's half as it is now, “notes” is 4.9 % better at guessing "
        "your own held-out text than with nothing shared, somewhere between 2.0 % "
        "better and 7.7 % better."
    )


def test_what_cannot_be_told_is_drawn_as_undecided():
    made = helped.drawn(Measured(report=REPORT), KEPT, "notes")
    kinds = [part.split('"')[0] for part in made.split('data-kind="')[1:]]
    assert kinds == ["n", "w", "b"]
    assert 'data-back="-1"' in made
    assert 'data-back="2"' in made


def test_noise_looks_small():
    small = {"sharing": {**REPORT["sharing"]}}
    small["sharing"]["candidates"] = [candidate("now", None, -0.001, [-0.002, 0.0])]
    made = helped.drawn(Measured(report=small), {}, "notes")
    assert "5 % better</i>" in made


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Measured(), "Nobody has looked yet"),
        (Measured(running=True), "Reading your held-out text"),
        (Measured(report=REPORT, outdated=True), "look again"),
        (Measured(problem="test is empty <b>: use --split"), "&lt;b&gt;: use Split"),
    ],
)
def test_how_it_stands_is_said_with_all_that_is_kept(found, said):
    made = helped.drawn(found, {1: "<em>"}, "<notes>")
    assert said in made
    assert "<em>" not in made
    assert "<notes>" not in made
    assert 'data-back="1"' in made


def test_a_loss_without_bound_is_drawn_within_the_picture():
    wild = {
        "sharing": {"answer": "hurts", "candidates": [candidate("now", None, 50.0)]}
    }
    made = helped.drawn(Measured(report=wild), {}, "notes")
    assert 'cx="8.0"' in made
