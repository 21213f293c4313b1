"""What averaging the factors misses, and the lengths of updates."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays

CURRENT = sharing.tensors()


def people(*tensors):
    return [Arrays(f"p{i}", one) for i, one in enumerate(tensors)]


def mean(tensors):
    wide = [{k: v.astype(np.float64) for k, v in one.items()} for one in tensors]
    return {name: sum(one[name] for one in wide) / len(wide) for name in wide[0]}


@pytest.mark.parametrize("count", [2, 3, 20])
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_inexactness_is_its_definition(count, size):
    tensors = [sharing.moved(CURRENT, seed, size) for seed in range(count)]
    exact = mean([sharing.products(one) for one in tensors])
    factors = sharing.products(mean(tensors))
    missed = np.linalg.norm(sharing.vector(exact) - sharing.vector(factors))
    wanted = missed / np.linalg.norm(sharing.vector(exact))
    assert aggregate.inexactness(people(*tensors)) == pytest.approx(wanted, rel=1e-6)


def test_it_is_zero_where_nothing_is_missed():
    moved = sharing.moved(CURRENT, 1)
    assert aggregate.inexactness(people(moved)) == 0
    assert aggregate.inexactness(people(moved, moved)) < 1e-12
    frozen = [
        {k: CURRENT[k] if k.endswith("_a") else v for k, v in one.items()}
        for one in (moved, sharing.moved(CURRENT, 2))
    ]
    assert aggregate.inexactness(people(*frozen)) == 0  # FFA-LoRA
    assert aggregate.inexactness(people(*[sharing.tensors(zero_b=True)] * 3)) == 0


def test_factors_of_different_ranks_have_no_average():
    assert aggregate.inexactness(people(CURRENT, sharing.tensors(rank=3))) is None


def test_where_the_products_cancel_there_is_nothing_to_relate_it_to():
    one = sharing.tensors(rank=4)
    turned = {
        name: np.roll(array, 1, 1) if name.endswith("a") else -np.roll(array, 1, 0)
        for name, array in one.items()
    }
    assert aggregate.inexactness(people(one, turned)) is None
    minus = {n: array if n.endswith("a") else -array for n, array in one.items()}
    assert aggregate.inexactness(people(one, minus)) == 0  # and nothing is missed


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3e38])
def test_no_number_makes_it_fail(value):
    filled = {name: np.full_like(array, value) for name, array in CURRENT.items()}
    for group in ([filled], [filled, CURRENT], [CURRENT, filled, CURRENT]):
        found = aggregate.inexactness(people(*group))
        assert found is None or 0 <= found <= aggregate.MOST_INEXACT


class TestCombine:
    def test_a_result_that_is_not_finite_leaves_the_generalists_as_they_are(self):
        huge = {name: np.full_like(array, 3e38) for name, array in CURRENT.items()}
        made = aggregate.combine("svd", people(huge), Arrays("", CURRENT))
        assert all(np.array_equal(made.tensors[n], CURRENT[n]) for n in CURRENT)
        assert made.weights == {}
        assert made.notes == (
            "the svd of these contributions is not finite: nothing was changed",
        )

    def test_otherwise_it_is_the_aggregators(self):
        group = people(*(sharing.moved(CURRENT, seed) for seed in range(3)))
        made = aggregate.combine("mean", group, Arrays("", CURRENT))
        wanted = aggregate.aggregate("mean", group, Arrays("", CURRENT))
        assert made.weights == wanted.weights
        assert made.notes == ()
        for name, values in wanted.shared:
            assert np.array_equal(made.tensors[name], values)


def test_lengths_of_updates_by_factors_and_by_products():
    tensors = [sharing.moved(CURRENT, seed) for seed in range(3)]
    start = sharing.vector(CURRENT).astype(np.float64)
    found = aggregate.update_norms(people(*tensors), Arrays("", CURRENT))
    wanted = [np.linalg.norm(sharing.vector(one) - start) for one in tensors]
    assert found == pytest.approx(wanted, rel=1e-6)
    before = sharing.vector(sharing.products(CURRENT))
    found = aggregate.update_norms(people(*tensors), Arrays("", CURRENT), True)
    wanted = [
        np.linalg.norm(sharing.vector(sharing.products(one)) - before)
        for one in tensors
    ]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_an_unknown_aggregator_is_told_with_the_known_ones():
    for call in (
        lambda: aggregate.load("magic"),
        lambda: aggregate.aggregate("magic", people(CURRENT), Arrays("", CURRENT)),
    ):
        with pytest.raises(
            FederationError, match="'magic': choose one of clipped_mean"
        ):
            call()
