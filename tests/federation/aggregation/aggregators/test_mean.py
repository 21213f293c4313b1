"""The paper's average: exact, and in the memory of one tensor."""

import tracemalloc

import numpy as np

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays
from tests.federation.aggregation.aggregators.arithmetic import people, value


def test_the_average_by_hand():
    assert value("mean", people(1, 2, 6)) == 3
    assert value("mean", people(1, 2, 6, tokens=[9, 1, 1]), current=100) == 3


def test_everyone_has_the_same_share():
    made = aggregate.aggregate("mean", people(1, 2, 3, 4), people(0)[0])
    assert made.weights == {"p0": 0.25, "p1": 0.25, "p2": 0.25, "p3": 0.25}


def test_one_contribution_gives_itself_to_the_last_bit():
    values = sharing.tensors(3)
    current = Arrays("", sharing.tensors(4))
    made = aggregate.aggregate("mean", [Arrays("ann", values)], current)
    assert all(np.array_equal(array, values[name]) for name, array in made.shared)


def test_the_sum_is_wide():
    """In float32, adding 1 to 2^24 again and again would change nothing."""
    group = people(*[2.0**24] + [1.0] * 1023)
    assert value("mean", group) == np.float32((2.0**24 + 1023) / 1024)


class Lazy:
    """A contribution that is made when it is read, as if from a disk."""

    tokens = 1

    def __init__(self, index):
        self.name, self.index = f"p{index}", index

    def names(self):
        return ["x.lora_a", "x.lora_b"]

    def read(self, tensor):
        shape = (200, 8) if tensor.endswith("a") else (8, 200)
        return np.full(shape, self.index, np.float32)


def test_memory_does_not_grow_with_a_thousand_contributions():
    def peak(count):
        group = [Lazy(index) for index in range(count)]
        tracemalloc.start()
        made = aggregate.aggregate("mean", group, Lazy(0))
        for _, array in made.shared:
            assert np.allclose(array, (count - 1) / 2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    tensor = 200 * 8 * 8  # bytes, in float64
    growth = peak(1000) - peak(10)
    assert growth < 1000 * 200  # the list of participants and their weights
    assert growth < 1000 * tensor / 50
    assert peak(10) < 8 * tensor
