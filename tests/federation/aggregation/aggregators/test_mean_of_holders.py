"""Only those who have trained a generalist count in its average."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays

CURRENT = sharing.tensors(generalists=2)


def trained(name, by, generalists, rounded=False):
    """Generalists of which the first so many have moved."""
    values = {}
    for tensor, array in CURRENT.items():
        index = int(tensor.startswith("generalist-1/"))
        moved = array + by if index < generalists else array
        values[tensor] = moved.astype("f2").astype("f") if rounded else moved
    return Arrays(name, values)


@pytest.mark.parametrize("rounded", [False, True])
def test_only_holders_of_a_generalist_count(rounded):
    group = [trained("ann", 4, 1, rounded), trained("bob", 1, 2, rounded)]
    made = aggregate.aggregate("mean_of_holders", group, Arrays("", CURRENT))
    for tensor, array in made.shared:
        by = 1.0 if tensor.startswith("generalist-1/") else 2.5
        assert np.allclose(array, CURRENT[tensor] + by, atol=5e-3 if rounded else 1e-6)


def test_a_generalist_that_nobody_has_stays_as_it_is():
    group = [trained("ann", 4, 1), trained("bob", 1, 1)]
    made = dict(
        aggregate.aggregate("mean_of_holders", group, Arrays("", CURRENT)).shared
    )
    for tensor, array in made.items():
        same = np.array_equal(array, CURRENT[tensor])
        assert same == tensor.startswith("generalist-1/")
