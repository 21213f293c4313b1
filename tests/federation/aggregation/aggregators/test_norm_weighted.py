"""The average weighted by the norms of the products."""

import numpy as np

from comigs_mlx.federation.aggregation import aggregate
from tests.federation.aggregation.aggregators.arithmetic import people, value


def test_norms_weigh_contributions():
    # The products are 2 and 8: their norms are as 1 to 4.
    assert np.isclose(value("norm_weighted", people(1, 2)), 0.2 * 1 + 0.8 * 2)
    made = aggregate.aggregate("norm_weighted", people(1, 2), people(0)[0])
    assert made.weights == {"p0": 0.2, "p1": 0.8}


def test_before_anything_is_learnt_all_weigh_the_same():
    made = aggregate.aggregate("norm_weighted", people(0, 0), people(0)[0])
    assert made.weights == {"p0": 0.5, "p1": 0.5}
