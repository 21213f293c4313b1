"""Nobody moves the result further than the median participant."""

import pytest

from comigs_mlx.federation.aggregation import aggregate
from tests.federation.aggregation.aggregators.arithmetic import people, value


def test_long_updates_are_cut_to_the_median_length():
    """Updates of 1, 2 and 90: the last counts as 2."""
    assert value("clipped_mean", people(1, 2, 90)) == pytest.approx(5 / 3, rel=1e-6)
    assert value("clipped_mean", people(1, 2, 3)) == pytest.approx(5 / 3, rel=1e-6)


def test_lengths_are_those_of_updates_not_of_values():
    found = value("clipped_mean", people(101, 98, 190), current=100)
    assert found == pytest.approx(100 + (1 - 2 + 2) / 3, rel=1e-6)


def test_the_factor_gives_more_room():
    found = value("clipped_mean", people(1, 2, 90), factor=3)
    assert found == pytest.approx((1 + 2 + 6) / 3, rel=1e-6)


def test_updates_of_one_length_are_a_plain_mean():
    assert value("clipped_mean", people(3, -3, 3)) == pytest.approx(1, rel=1e-6)
    made = aggregate.aggregate("clipped_mean", people(3, -3, 3), people(0)[0])
    assert made.weights == {"p0": 1 / 3, "p1": 1 / 3, "p2": 1 / 3}


def test_without_any_update_nothing_changes():
    assert value("clipped_mean", people(7, 7), current=7) == 7
