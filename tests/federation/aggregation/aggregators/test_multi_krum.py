"""Who is far from the others does not count."""

import numpy as np
import pytest

from comigs_mlx.federation.aggregation import aggregate
from tests.federation.aggregation.aggregators.arithmetic import people, value


def weights(values, **options):
    group = people(*values)
    return aggregate.aggregate("multi_krum", group, people(0)[0], options).weights


def test_the_outlier_is_left_out():
    """N = 5, f = 1: scores are over the 2 closest; 50 has by far the largest."""
    values = (1.0, 2.0, 50.0, 3.0, 4.0)
    assert weights(values) == {"p0": 0.25, "p1": 0.25, "p2": 0, "p3": 0.25, "p4": 0.25}
    assert value("multi_krum", people(*values)) == 2.5


def test_scores_are_of_the_closest_only():
    """Two liars side by side do not vouch for each other when f = 2."""
    values = (0.0, 0.1, 0.2, 0.3, 0.4, 90.0, 90.1)
    found = weights(values, fraction=0.25)
    assert [found[f"p{i}"] for i in (5, 6)] == [0, 0]
    assert sum(found.values()) == pytest.approx(1)


def test_of_four_a_lone_outlier_does_not_count():
    assert weights((1.0, 2.0, -50.0, 3.0)) == {
        "p0": pytest.approx(1 / 3),
        "p1": pytest.approx(1 / 3),
        "p2": 0,
        "p3": pytest.approx(1 / 3),
    }
    assert weights((1.0, 2.0, -50.0, 3.0), fraction=0.0)["p2"] == 0.25


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_to_judge_are_averaged(count):
    values = range(count)
    assert value("multi_krum", people(*values)) == np.mean(values)


def test_the_choice_is_the_papers():
    random = np.random.default_rng(1)
    for count, hostile in ((5, 1), (9, 2), (12, 3)) * 20:
        values = random.normal(size=count).astype(np.float32)
        distances = 5 * (values[:, None] - values) ** 2.0  # lora_b is twice lora_a
        scores = [np.sort(np.delete(row, i)) for i, row in enumerate(distances)]
        totals = [row[: count - hostile - 2].sum() for row in scores]
        wanted = set(np.argsort(totals)[: count - hostile])
        found = weights(values, fraction=hostile / count)
        assert {i for i in range(count) if found[f"p{i}"]} == wanted
