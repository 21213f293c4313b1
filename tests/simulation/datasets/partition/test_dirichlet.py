from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from comigs_mlx.simulation.datasets.partition import dirichlet

LABELS = [label for label in "abcdefgh" for _ in range(500)]


def shares(alpha: float, seed: int = 0) -> np.ndarray:
    """[labels, 4]: the part of each label that each participant owns."""
    owners = dirichlet.assign(LABELS, 4, seed, alpha)
    counts = Counter(zip(LABELS, owners, strict=True))
    names = [f"p{i}" for i in range(4)]
    found = [[counts[label, name] / 500 for name in names] for label in "abcdefgh"]
    return np.array(found)


def test_a_label_is_divided_without_rest() -> None:
    np.testing.assert_allclose(shares(0.5).sum(1), 1)


def test_a_large_alpha_divides_evenly_and_a_small_one_separates() -> None:
    assert np.abs(shares(100_000) - 0.25).max() < 0.01
    assert shares(0.01).max(1).mean() > 0.95


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_spread_is_that_of_the_distribution(alpha: float) -> None:
    """Var q = (1/K)(1 - 1/K) / (K alpha + 1), over 50 seeds of 8 labels."""
    drawn = np.concatenate([shares(alpha, seed).ravel() for seed in range(50)])
    expected = 0.25 * 0.75 / (4 * alpha + 1)
    assert drawn.var() == pytest.approx(expected, rel=0.15)
