"""Losses against numpy in float64."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model.routing import Routing
from comigs_mlx.training.losses import load_balancing, token_losses


def identity(hidden):
    """A head for logits that are there already."""
    return hidden


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_token_losses_equal_numpy_and_are_float32(dtype):
    mx.random.seed(0)
    logits = (4 * mx.random.normal((2, 5, 11))).astype(dtype)
    targets = np.random.default_rng(0).integers(0, 11, (2, 5))
    z = np.array(logits.astype(mx.float32)).astype(np.float64)
    picked = np.take_along_axis(z, targets[..., None], -1)[..., 0]
    found = token_losses(identity, logits, mx.array(targets))
    assert found.dtype == mx.float32
    expected = np.log(np.exp(z).sum(-1)) - picked
    assert np.abs(np.array(found) - expected).max() <= 1e-5


def test_token_losses_survive_large_logits():
    logits = mx.array([[[1e4, 0.0, -1e4]]])
    assert token_losses(identity, logits, mx.array([[0]])).item() == 0.0
    assert token_losses(identity, logits, mx.array([[2]])).item() == 2e4


def random_routing(layers, batch, tokens, experts, k, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(layers, batch, tokens, experts)).astype(np.float32)
    probabilities = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    chosen = (np.argsort(np.argsort(-z, -1), -1) < k).astype(np.float32)
    return Routing(*(mx.array(a) for a in (probabilities, chosen, probabilities)))


@pytest.mark.parametrize(("generalists", "importance"), [(1, 1.0), (2, 0.25), (0, 5.0)])
def test_load_balancing_equals_the_formula(generalists, importance):
    routing = random_routing(3, 2, 7, 4, k=2)
    mask = np.ones((2, 7), np.float32)
    mask[0, 4:] = 0
    chosen, probabilities = np.array(routing.chosen), np.array(routing.probabilities)
    blocks = []
    for layer in range(3):
        total = 0.0
        for e in range(4):
            c = importance if e < generalists else 1.0
            f = chosen[layer, ..., e][mask > 0].mean()
            p = probabilities[layer, ..., e][mask > 0].mean()
            total += c * f * p
        blocks.append(4 * total)
    found = load_balancing(routing, mx.array(mask), generalists, importance)
    assert found.item() == pytest.approx(np.mean(blocks), rel=1e-5)


def test_load_balancing_is_k_for_even_routing_and_e_where_one_expert_takes_all():
    even = mx.array(np.eye(4, dtype=np.float32)[None, None])  # each expert once
    quarter = mx.full((1, 1, 4, 4), 0.25)
    ones = mx.ones((1, 4))
    assert load_balancing(Routing(even, even, quarter), ones, 1, 1.0).item() == 1.0
    first = mx.array(np.eye(4, dtype=np.float32)[[0, 0, 0, 0]][None, None])
    assert load_balancing(Routing(first, first, first), ones, 1, 1.0).item() == 4.0


def test_load_balancing_differentiates_probabilities_only():
    routing, mask = random_routing(1, 1, 6, 3, k=1), mx.ones((1, 6))

    def loss(chosen, probabilities):
        return load_balancing(Routing(chosen, chosen, probabilities), mask, 1, 2.0)

    by_chosen, by_probability = mx.grad(loss, argnums=(0, 1))(
        routing.chosen, routing.probabilities
    )
    assert np.abs(np.array(by_chosen)).max() == 0.0
    f = np.array(routing.chosen)[0, 0].mean(0)
    expected = 3 * np.array([2.0, 1.0, 1.0]) * f / 6  # d/dp of E c_e f_e mean(p)
    assert np.allclose(np.array(by_probability)[0, 0], expected, atol=1e-6)
