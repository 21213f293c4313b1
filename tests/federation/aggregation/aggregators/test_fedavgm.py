"""FedAvgM against its formula, over several rounds."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays


def rounds(name, count, **options):
    """What each round starts from, contributes, makes and remembers."""
    current, state = sharing.tensors(), None
    for number in range(count):
        given = [sharing.moved(current, 7 * number + seed) for seed in range(3)]
        sources = [Arrays(f"p{i}", one) for i, one in enumerate(given)]
        parts = sources, Arrays("", current), options, state
        made = aggregate.aggregate(name, *parts)
        shared = dict(made.shared)
        yield sharing.vector(current), [sharing.vector(g) for g in given], shared
        current, state = shared, made.state


@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 0.1), (0.5, 1.0), (0, 2)])
def test_it_is_its_formula(momentum, rate):
    m = 0.0
    for theta, given, made in rounds("fedavgm", 4, momentum=momentum, rate=rate):
        delta = np.mean(np.stack(given).astype(np.float64), axis=0) - theta
        m = momentum * m + delta
        np.testing.assert_allclose(sharing.vector(made), theta + rate * m, atol=1e-5)


def test_without_momentum_and_at_rate_1_it_is_the_mean():
    for _, given, made in rounds("fedavgm", 2, momentum=0, rate=1):
        np.testing.assert_allclose(
            sharing.vector(made), np.mean(given, axis=0), atol=1e-6
        )
