"""Medians, ranges and ratios, by arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.benchmark.spread import Spread, rate, ratio, spread

TIMES = st.floats(1e-3, 1e3)


def test_a_median_with_its_range():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([4.0]) == Spread(4.0, 4.0, 4.0)


def test_a_ratio_is_that_of_the_medians_its_range_that_of_the_rounds():
    # Round by round 2, 3 and 1; medians 6 and 3.
    assert ratio([4.0, 9.0, 6.0], [2.0, 3.0, 6.0]) == Spread(2.0, 1.0, 3.0)


def test_a_machine_that_slows_down_leaves_the_ratio():
    found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert found == Spread(2.0, 2.0, 2.0)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=7))
def test_a_ratio_lies_in_its_range(pairs):
    found = ratio(*zip(*pairs, strict=True))
    assert found.low * (1 - 1e-9) <= found.value <= found.high * (1 + 1e-9)


def test_a_rate_turns_the_range_round():
    assert rate(64, [2.0, 1.0, 4.0]) == Spread(32.0, 16.0, 64.0)


def test_rounds_must_pair_up():
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0])
