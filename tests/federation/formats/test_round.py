"""round.json: how far a federation is."""

import dataclasses
import json

import pytest

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.round import HISTORY_NAMES, Closed, Round


def test_the_beginning_is_round_0_and_comes_back():
    first = Round(closed_at=12.5)
    assert first.round == 0
    assert Round.from_json(first.to_json()) == first
    assert set(json.loads(first.to_json())) == {
        *("format_version", "round", "contributors", "weights", "aggregator"),
        *("refused", "inexactness", "closed_at", "owners", "history"),
    }


def test_the_next_round_carries_the_history_on():
    one = Round().following({"bob": 0.75, "ann": 0.25}, "tokens", 10.0, ["bob", "ann"])
    two = one.following(
        {"ann": 1.0}, "mean", 20.0, ["ann"], {"eve": "not finite" * 100}, 0.125
    )
    assert (two.round, two.contributors, two.weights) == (2, ("ann",), {"ann": 1.0})
    assert (two.aggregator, two.closed_at, two.inexactness) == ("mean", 20.0, 0.125)
    assert two.refused == {"eve": ("not finite" * 100)[:200]}
    assert two.history == (Closed(1, ("ann", "bob")), Closed(2, ("ann",)))
    assert Round.from_json(two.to_json()) == two


def test_the_history_keeps_the_last_200_rounds():
    state = Round()
    for _ in range(205):
        state = state.following({}, "mean", 1.0, ["ann"])
    assert [closed.round for closed in state.history] == list(range(6, 206))
    assert Round.from_json(state.to_json()) == state


def test_the_history_of_a_crowd_stays_small():
    crowd, state = [f"p{i}" for i in range(HISTORY_NAMES // 4)], Round()
    for _ in range(6):
        state = state.following({}, "mean", 1.0, crowd)
    assert [closed.round for closed in state.history] == [3, 4, 5, 6]
    assert Round.from_json(state.to_json()) == state


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"round": -1}, "round: -1 is not from 0"),
        ({"contributors": ("Ann",)}, "'Ann' is not a participant's name"),
        ({"weights": {"ann": 2.0}, "contributors": ("ann",)}, "shares from 0 to 1"),
        ({"weights": {"ann": 0.5}}, "ann is not among the contributors"),
        ({"refused": {"ann": "x" * 201}}, "more than 200 characters"),
        ({"inexactness": -0.1}, "inexactness: -0.1"),
        ({"history": (Closed(1, ()),) * 201}, "201 rounds, at most 200"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes, problem):
    with pytest.raises(FederationError) as error:
        dataclasses.replace(Round(), **changes).to_json()
    assert problem in str(error.value)


def following(state, contributors, accounts):
    return state.following({}, "mean", 1.0, contributors, accounts=accounts)


def test_a_name_stays_with_its_first_account():
    first = following(Round(), ["ann", "mac"], {"ann": "ann", "mac": "ben"})
    later = following(first, ["mac", "cid"], {"mac": "eve", "cid": "cid"})
    assert later.owners == {"ann": "ann", "mac": "ben", "cid": "cid"}
    assert Round.from_json(later.to_json()) == later


def test_owners_stay_within_what_can_be_read_back():
    many = {f"p{i}": "ann" for i in range(10_000)}
    full = following(Round(owners=many), ["late"], {"late": "eve"})
    assert full.owners == many
    full.to_json()
