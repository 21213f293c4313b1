"""Many contributions: memory does not grow with them, or by one tensor of each only."""

import tracemalloc

import numpy as np
import pytest

from comigs_mlx import registry
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays

LINEARS, ROWS, COLUMNS, RANK = 12, 96, 64, 8
FEW, MANY = 40, 120
TENSOR = ROWS * RANK * 4
"""Bytes of the larger tensor of a pair."""

WHOLE = LINEARS * (ROWS + COLUMNS) * RANK * 4
"""Bytes of one contribution; `MANY` of them are 7 MB."""

PER_TENSOR = {"median", "trimmed_mean", "multi_krum"}
"""Those that must see all values of one tensor at once."""

NAMES = registry.names("aggregator")


class Lazy:
    """A contribution that makes each tensor when it is asked for, as a file does."""

    def __init__(self, index):
        self.name, self.tokens, self.seed = f"p{index:04}", 1 + index, index

    def names(self):
        linears = (f"model.layers.{i:02}.mlp.up_proj" for i in range(LINEARS))
        return [f"{linear}.lora_{part}" for linear in linears for part in "ab"]

    def read(self, tensor):
        return VALUES[tensor[-1]] * np.float32(1 + (self.seed % 7) / 10)


RANDOM = np.random.default_rng(0)
VALUES = {
    "a": RANDOM.normal(size=(ROWS, RANK)).astype(np.float32),
    "b": RANDOM.normal(size=(RANK, COLUMNS)).astype(np.float32),
}


def peak(work):
    """Most bytes that were held while `work` ran, its result aside."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(work):
    """How much more `MANY` contributions hold at once than `FEW`."""
    given = [Lazy(i) for i in range(MANY)]
    work(given[:FEW])  # imports, BLAS buffers
    each = (
        peak(lambda: work(given)) - peak(lambda: work(given[:FEW])) for _ in range(3)
    )
    return min(each)  # what another thread allocates meanwhile is no growth


@pytest.fixture
def current():
    start = Lazy(10**6)
    return Arrays("", {name: start.read(name) for name in start.names()})


@pytest.mark.parametrize("name", NAMES)
def test_an_aggregator(name, current):
    def work(given):
        for _ in aggregate.aggregate(name, given, current).shared:
            pass

    found = growth(work)
    if name in PER_TENSOR:  # in float32 and in float64, copied once; and distances
        most = 6 * (MANY - FEW) * TENSOR + 3 * 8 * MANY**2
        assert found < most < (MANY - FEW) * WHOLE / 2
    else:
        assert found < WHOLE


@pytest.mark.parametrize("products", [False, True])
def test_lengths_of_updates(products, current):
    found = growth(lambda g: aggregate.update_norms(g, current, products))
    assert found < WHOLE / 2


def test_inexactness():
    assert growth(aggregate.inexactness) < WHOLE


def test_what_holds_all_of_them_is_found():
    found = growth(lambda given: [[s.read(n) for n in s.names()] for s in given])
    assert found > (MANY - FEW) * WHOLE
