"""The middle value, number by number."""

import numpy as np

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays
from tests.federation.aggregation.aggregators.arithmetic import pair, people, value


def test_the_middle_of_an_odd_number():
    assert value("median", people(7, 1, 2, 100, 3)) == 3
    assert value("median", people(4)) == 4


def test_between_the_two_in_the_middle_of_an_even_number():
    assert value("median", people(100, 1, 2, 4)) == 3
    assert value("median", people(1, 2)) == 1.5


def test_each_number_has_its_own_median():
    rows = [[[1, 30]], [[2, 10]], [[3, 20]]]
    group = [Arrays(f"p{i}", pair(a, [[0], [0]])) for i, a in enumerate(rows)]
    made = aggregate.aggregate("median", group, group[0])
    assert dict(made.shared)["x.lora_a"].tolist() == [[2, 20]]
    assert made.weights == {}


def test_it_is_numpys():
    random = np.random.default_rng(0)
    for count in range(1, 9):
        arrays = random.normal(size=(count, 5, 3)).astype(np.float32)
        zeros = np.zeros((3, 2))
        group = [Arrays(f"p{i}", pair(a, zeros)) for i, a in enumerate(arrays)]
        found = dict(aggregate.aggregate("median", group, group[0]).shared)
        wanted = np.median(arrays.astype(np.float64), axis=0).astype(np.float32)
        assert np.array_equal(found["x.lora_a"], wanted)
