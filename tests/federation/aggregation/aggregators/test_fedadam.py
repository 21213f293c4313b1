"""FedAdam against algorithm 2 of its paper, over several rounds."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays
from tests.federation.aggregation.aggregators.test_fedavgm import rounds

SETTINGS = [
    {"rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    {"rate": 1.0, "beta1": 0.0, "beta2": 0.5, "tau": 0.1},
]


@pytest.mark.parametrize("options", SETTINGS)
def test_it_is_the_papers_algorithm(options):
    rate, beta1, beta2, tau = options.values()
    m, v = 0.0, tau**2
    for theta, given, made in rounds("fedadam", 4, **options):
        delta = np.mean(np.stack(given).astype(np.float64), axis=0) - theta
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        wanted = theta + rate * m / (np.sqrt(v) + tau)
        np.testing.assert_allclose(sharing.vector(made), wanted, atol=1e-5)


def test_the_second_moment_begins_at_the_square_of_tau():
    start = Arrays("", sharing.tensors())
    state = aggregate.initial("fedadam", start, {"tau": 0.5})
    assert all((state[f"v/{name}"] == 0.25).all() for name in start.names())
    assert all((state[f"m/{name}"] == 0).all() for name in start.names())
