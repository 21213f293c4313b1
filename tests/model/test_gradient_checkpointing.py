"""Blocks that are computed again give the same loss and the same gradients."""

import mlx.core as mx
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.model import params
from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def attached(family):
    mixture = Mixture(families.build(family), ExpertOptions(rank=2, specialists=2))
    randomise(mixture.model)
    return mixture


def loss_and_gradients(mixture):
    """Of a square of all logits, and of the routing of all blocks."""

    def loss(tokens):
        hidden, routing = mixture.body(tokens)
        return mixture.head(hidden).square().mean() + routing.weights.square().mean()

    values = params.select(mixture.model, params.ROLES)
    loss, gradients = params.value_and_grad(mixture.model, loss)(values, TOKENS)
    flat = params.flatten(gradients)
    return loss.item(), {path: np.array(array) for path, array in flat.items()}


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "plamo", "smollm3"])
def test_nothing_else_changes(family):
    mixture = attached(family)
    loss, expected = loss_and_gradients(mixture)
    recompute_blocks(mixture)
    again, found = loss_and_gradients(mixture)
    assert again == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        assert np.abs(gradient).max() > 0
        close = 1e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(found[path], gradient, atol=close)


def test_blocks_that_cannot_be_run_so_are_refused_and_left_as_they_were(monkeypatch):
    mixture = attached("llama")
    kinds = [type(module) for _, module in mixture.model.named_modules()]
    block = type(mixture.sites[0].block)
    stock = block.__call__

    def odd(self, x, *args, **kwargs):
        return stock(self, x, *args, **kwargs), "no array"

    monkeypatch.setattr(block, "__call__", odd)
    with pytest.raises(UnsupportedModel, match="'llama' cannot recompute .*leave out"):
        recompute_blocks(mixture)
    assert [type(module) for _, module in mixture.model.named_modules()] == kinds
    monkeypatch.undo()
    loss_and_gradients(mixture)
    mixture.detach()
