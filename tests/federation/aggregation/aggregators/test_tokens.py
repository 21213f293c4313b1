"""Weights are shares of the reported tokens."""

import pytest

from comigs_mlx.federation.aggregation import aggregate
from tests.federation.aggregation.aggregators.arithmetic import people, value


def test_the_weighted_average_by_hand():
    group = people(1, 2, 6, tokens=[100, 300, 600])
    assert value("tokens", group) == pytest.approx(0.1 + 0.6 + 3.6, rel=1e-7)
    made = aggregate.aggregate("tokens", group, people(0)[0])
    assert made.weights == {"p0": 0.1, "p1": 0.3, "p2": 0.6}


def test_who_reports_no_tokens_has_no_share():
    assert value("tokens", people(1, 5, tokens=[10, 0])) == 1


def test_where_nobody_reports_all_have_the_same():
    assert value("tokens", people(1, 5)) == 3


def test_huge_counts_lose_nothing():
    group = people(1, 3, tokens=[10**13, 10**13])
    assert value("tokens", group) == 2
