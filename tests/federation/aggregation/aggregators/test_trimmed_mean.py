"""The extremes do not count."""

import pytest

from tests.federation.aggregation.aggregators.arithmetic import people, value


@pytest.mark.parametrize(
    ("fraction", "wanted"),
    [
        (0.0, (1 + 2 + 3 + 8 + 1001) / 5),
        (0.2, (2 + 3 + 8) / 3),
        (0.21, 3.0),
        (0.5, 3.0),
    ],
)
def test_as_many_are_cut_at_each_end_as_the_fraction_says(fraction, wanted):
    group = people(1001, 3, 1, 8, 2)
    found = value("trimmed_mean", group, fraction=fraction)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_something_is_always_left():
    assert value("trimmed_mean", people(5)) == 5
    assert value("trimmed_mean", people(5, 7)) == 6
    assert value("trimmed_mean", people(5, 7, 1000)) == 7
