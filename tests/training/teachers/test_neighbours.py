"""Windows that are alike should be routed as those of them that are routed well."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.model.embedding import embedded
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.teachers import teacher
from comigs_mlx.training.teachers.neighbours import neighbours, window_means
from tests.training.setting import batch_of, mixture_of


def written_out(vectors, good, nearest, sigma):
    """W_ij as the file's first lines write it, window by window."""
    apart = vectors - vectors.mean(0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    weights = np.zeros((len(good), len(good)))
    for i, e_i in enumerate(apart):
        others = [j for j in range(len(good)) if good[j] and j != i]
        others.sort(key=lambda j: np.linalg.norm(e_i - apart[j]))
        for j in others[:nearest]:
            weights[i, j] = np.exp(-np.sum((e_i - apart[j]) ** 2) / (2 * sigma**2))
        weights[i] /= max(weights[i].sum(), 1e-300)
    return weights


@pytest.mark.parametrize("nearest", [1, 3, 9])
def test_the_weights_of_neighbours(nearest):
    rng = np.random.default_rng(nearest)
    vectors = rng.normal(size=(6, 8)).astype(np.float32)
    good = np.array([True, False, True, True, False, True])
    found = neighbours(vectors, good, nearest, sigma=0.7)
    expected = written_out(vectors, good, nearest, 0.7)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found.sum(1) == pytest.approx(1, abs=1e-5)


def test_far_neighbours_still_sum_to_one():
    vectors = np.array([[1, 0], [-1, 0.1], [-1, -0.1]], np.float32)
    found = neighbours(vectors, np.array([True] * 3), 3, sigma=1e-3)
    assert found.sum(1) == pytest.approx(1)
    assert np.diag(found) == pytest.approx(0)


def test_without_a_good_neighbour_there_is_nothing_to_follow():
    vectors = np.eye(3, dtype=np.float32)
    assert not neighbours(vectors, np.array([False] * 3), 3, 0.4).any()
    only = neighbours(vectors, np.array([True, False, False]), 3, 0.4)
    assert np.array_equal(only, np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0]]))


def test_targets_are_the_neighbours_mean_routing():
    mixture = mixture_of(std=0.5)
    batch, evaluator = batch_of(3, rows=16, counted=9), Evaluator(mixture)
    found = teacher("neighbours:blocks=1,sigma=0.7", evaluator).targets(batch)
    losses = [
        (evaluator.batch_losses(batch, s)[0] * batch.mask).sum(1)
        for s in ("auto", (1.0, 0.0), (0.0, 1.0))
    ]
    good = losses[0] < np.minimum(*losses[1:])
    assert 0 < good.sum() < 16
    _, routing = mixture(mx.array(batch.tokens))
    means = np.array(routing.probabilities)[-1, :, :9].mean(1)
    vectors = embedded(mixture, mx.array(batch.tokens)[:, :-1], batch.mask)
    expected = written_out(vectors, good, 3, 0.7) @ means
    assert found[-1, :, 0] == pytest.approx(expected, abs=1e-4)
    assert not found[:-1].any()  # blocks before the last ones are taught nothing


def test_the_divergence_is_that_of_the_means():
    """r of equation 2 is one row for a window: tokens may differ from it."""
    probabilities = mx.array([[[[0.9, 0.1], [0.3, 0.7], [1.0, 0.0]]]])
    target, mask = mx.array([[[[0.6, 0.4]]]]), mx.array([[1.0, 1.0, 0.0]])
    made = teacher("neighbours", Evaluator(mixture_of()))
    assert window_means(probabilities, mask)[0, 0].tolist() == pytest.approx([0.6, 0.4])
    assert made.divergence(target, probabilities, mask).item() == pytest.approx(0)
    far = made.divergence(mx.array([[[[0.0, 1.0]]]]), probabilities, mask)
    assert far.item() == pytest.approx(2 * 0.6**2)


@pytest.mark.parametrize("name", ["nearest", "sigma", "blocks"])
def test_options_that_cannot_work(name):
    with pytest.raises(ConfigError, match=f"{name} 0.* must be above 0"):
        teacher(f"neighbours:{name}=0", Evaluator(mixture_of()))
