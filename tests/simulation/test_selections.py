"""Who speaks alone, and the best expert of each token: measured on request."""

import dataclasses
import math

import pytest

from comigs_mlx import registry
from comigs_mlx.simulation import report
from comigs_mlx.simulation.results import results
from tests.simulation.setting import simulation
from tests.simulation.test_results import outcome


def table(*each):
    outcomes = [
        dataclasses.replace(outcome("m", i, 10, 20), by_selection=one)
        for i, one in enumerate(each)
    ]
    made = results(outcomes, {}, {})
    return made["methods"]["m"]


def test_means_are_of_perplexities_over_participants_and_seeds():
    first = {"ann": {"auto": 1.0, "oracle": 0.5}, "bob": {"auto": 2.0, "oracle": 0.5}}
    second = {"ann": {"auto": 3.0, "oracle": 0.5}, "bob": {"auto": 4.0, "oracle": 0.5}}
    found = table(first, second)["by_selection"]
    assert found["auto"] == pytest.approx(sum(map(math.exp, (1, 2, 3, 4))) / 4)
    assert found["oracle"] == pytest.approx(math.exp(0.5))


def test_nothing_is_told_where_nothing_was_measured():
    assert "by_selection" not in table({}, {})
    assert report._selections({"m": {}}) == []


def test_the_report_has_a_table():
    lines = report._selections({"m": {"by_selection": {"auto": 2.0, "oracle": 1.5}}})
    assert "| m | 2.00 | 1.50 |" in lines


@pytest.mark.parametrize("router", registry.names("router"))
def test_of_a_real_simulation_with_every_router(router):
    shape, measuring = {"router_type": router}, {"selections": True}
    made = simulation("comigs-1g1s", shape=shape, measuring=measuring)
    list(made.run())
    outcome = made.outcome()
    assert outcome.by_selection.keys() == outcome.loss.keys()
    for name, losses in outcome.by_selection.items():
        assert losses["auto"] == pytest.approx(outcome.loss[name], abs=1e-5)
        assert losses["oracle"] <= min(losses["generalist"], losses["specialist"])


def test_only_on_request():
    made = simulation("comigs-1g1s", rounds=1)
    list(made.run())
    assert made.outcome().by_selection == {}
