"""Noise of the right size on an update of bounded length, and what it costs."""

import math
import sys

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.participant import privacy

CURRENT = sharing.tensors(rank=64, blocks=6)
SOURCE = Arrays("", CURRENT)


def update(values):
    return sharing.vector(values).astype(np.float64) - sharing.vector(CURRENT)


def test_the_update_is_clipped_as_one_vector_and_keeps_its_direction():
    values = sharing.moved(CURRENT, 1)
    before = update(values)
    assert np.linalg.norm(before) > 1
    after = update(privacy.privatise(values, SOURCE, 0.5, 1e-9))
    assert np.linalg.norm(after) == pytest.approx(0.5, rel=1e-4)
    assert after @ before == pytest.approx(0.5 * np.linalg.norm(before), rel=1e-4)


def test_a_short_update_is_not_lengthened():
    values = sharing.moved(CURRENT, 1, 1e-4)
    after = update(privacy.privatise(values, SOURCE, 100.0, 1e-12))
    assert np.allclose(after, update(values), atol=1e-6)


def test_the_noise_is_gaussian_of_the_stated_size():
    random = np.random.default_rng(3)
    noisy = privacy.privatise(CURRENT, SOURCE, 0.25, 4.0, random)
    noise = update(noisy)
    assert noise.size > 10_000
    assert noise.std() == pytest.approx(1.0, rel=0.03)
    assert abs(noise.mean()) < 0.03
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.6827, abs=0.02)
    assert noisy.keys() == CURRENT.keys()
    assert all(array.dtype == np.float32 for array in noisy.values())


@pytest.mark.parametrize("seeded", [True, False])
def test_every_number_has_noise_of_its_own(seeded):
    """The update is zero, so what is sent is the noise: no row or column repeats."""
    generator = np.random.default_rng(5) if seeded else None
    start = {name: np.zeros_like(array) for name, array in CURRENT.items()}
    noisy = privacy.privatise(start, Arrays("", start), 1.0, 1.0, generator)
    found = np.concatenate([array.ravel() for array in noisy.values()])
    assert len(np.unique(found)) > 0.999 * len(found)
    for array in noisy.values():
        for rows in (array, array.T):
            assert len(np.unique(rows, axis=0)) == len(rows)


def test_noise_of_the_system_is_standard_normal_and_independent():
    found = privacy._gaussian((2, 100_000))
    assert found.shape == (2, 100_000)
    assert abs(found.mean()) < 0.01
    assert found.std() == pytest.approx(1.0, rel=0.01)
    for size, share in ((0.5, 0.38292), (1, 0.68269), (2, 0.95450), (3, 0.99730)):
        assert np.mean(np.abs(found) < size) == pytest.approx(share, abs=0.005)
    assert abs(np.corrcoef(found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[0, 1:], found[0, :-1])[0, 1]) < 0.02
    assert np.isfinite(found).all()
    assert privacy._gaussian((0, 3)).shape == (0, 3)


def test_noise_repeats_for_a_seed_only():
    def noise(generator=None):
        return update(privacy.privatise(CURRENT, SOURCE, 1.0, 1.0, generator))

    one, two = (noise(np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(noise(), noise())


def exact_delta(epsilon, sigma):
    """Balle and Wang, ICML 2018, theorem 8, for sensitivity 1."""

    def phi(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    first, second = (
        1 / (2 * sigma) - epsilon * sigma,
        -1 / (2 * sigma) - epsilon * sigma,
    )
    return phi(first) - math.exp(epsilon) * phi(second)


def exact_epsilon(sigma, delta):
    low, high = 0.0, 200.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if exact_delta(middle, sigma) > delta else (low, middle)
        )
    return high


@pytest.mark.parametrize(
    ("rounds", "noise", "delta"), [(1, 2.0, 1e-5), (20, 4.0, 1e-5), (100, 20.0, 1e-6)]
)
def test_epsilon_bounds_the_exact_one_and_not_by_much(rounds, noise, delta):
    """Gaussian mechanisms compose to one with noise / sqrt(rounds)."""
    exact = exact_epsilon(noise / math.sqrt(rounds), delta)
    assert exact <= privacy.spent(rounds, noise, delta) <= 1.15 * exact


def test_epsilon_grows_with_rounds_and_falls_with_noise():
    assert privacy.spent(0, 1.0, 1e-5) == 0
    assert privacy.spent(1, 1.0, 1e-5) < privacy.spent(2, 1.0, 1e-5)
    assert privacy.spent(1, 2.0, 1e-5) < privacy.spent(1, 1.0, 1e-5)
    said = privacy.statement(3, 0.5, 2.0, 1e-5)
    assert (said.delta, said.clip, said.noise) == (1e-5, 0.5, 2.0)
    assert said.epsilon == privacy.spent(3, 2.0, 1e-5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip": 0.0}, "clip 0.0 must be a number above 0"),
        ({"noise": -1.0}, "noise -1.0 must be a number above 0"),
        ({"clip": math.inf}, "clip inf must be"),
        ({"noise": math.nan}, "noise nan must be"),
    ],
)
def test_numbers_that_protect_nothing_are_refused(options, problem):
    with pytest.raises(FederationError) as error:
        privacy.privatise(CURRENT, SOURCE, **{"clip": 1.0, "noise": 1.0, **options})
    assert str(error.value).startswith(problem)


def test_delta_and_rounds_must_make_sense():
    for rounds, delta in ((1, 1.0), (-1, 1e-5)):
        with pytest.raises(FederationError, match="delta must be below 1"):
            privacy.spent(rounds, 1.0, delta)


def test_an_update_that_is_not_finite_is_not_sent():
    broken = {name: np.full_like(array, np.nan) for name, array in CURRENT.items()}
    with pytest.raises(FederationError, match="the update is not finite"):
        privacy.privatise(broken, SOURCE, 1.0, 1.0)


def test_without_the_package_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    install = r"needs the package dp-accounting: pip install 'comigs-mlx\[federation\]'"
    with pytest.raises(FederationError, match=install):
        privacy.spent(1, 1.0, 1e-5)


def test_several_sizes_of_noise_compose():
    """Gaussian mechanisms add up by 1 / sigma^2."""
    assert privacy.epsilon([], 1e-5) == privacy.epsilon([(2.0, 0)], 1e-5) == 0
    mixed = privacy.epsilon([(3.0, 9), (1.5, 1)], 1e-5)
    assert mixed == pytest.approx(privacy.spent(13, 3.0, 1e-5), rel=1e-9)
    stated = privacy.statement(1, 0.5, 1.5, 1e-5, [(3.0, 9)])
    assert stated.epsilon == mixed
    with pytest.raises(FederationError, match="rounds at least 0"):
        privacy.epsilon([(1.0, 1), (2.0, -1)], 1e-5)
