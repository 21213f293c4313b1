"""The naive mixture computes what the mixture computes, only with more work."""

import mlx.core as mx
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.benchmark import naive
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.training.level import Level, expert_group, router_group
from tests.model.naive import randomise
from tests.training.setting import batch_of

SHAPES = {
    "one": ExpertOptions(specialists=0, rank=2).resolved(),
    "k=E": ExpertOptions(rank=2),
    "k<E": ExpertOptions(specialists=3, rank=2),
    "k=1": ExpertOptions(specialists=2, rank=2, top_k=1),
    "two generalists": ExpertOptions(generalists=2, specialists=1, rank=2),
}


def both(options, family="llama", bits=None):
    """The mixture and the naive one, with the same large random values."""
    pair = [
        make(families.build(family, bits), options) for make in (Mixture, naive.mixture)
    ]
    for mixture in pair:
        randomise(mixture.model, std=0.2)
    return pair


def close(mine, reference):
    mine, reference = np.array(mine), np.array(reference)
    np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5 * abs(mine).max())


@pytest.mark.parametrize("selection", ["auto", "generalist", "base"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_routing_are_the_mixtures(shape, selection):
    real, slow = both(SHAPES[shape])
    tokens = mx.array(batch_of(5).tokens)
    with real.selected(selection), slow.selected(selection):
        (logits, routing), (expected, other) = real(tokens), slow(tokens)
    close(logits, expected)
    for mine, its in zip(routing.arrays(), other.arrays(), strict=True):
        assert mine.shape == its.shape
        if mine.size:
            close(mine, its)


@pytest.mark.parametrize(
    ("family", "bits"), [("gpt2", None), ("phi3", None), ("gemma", None), ("llama", 4)]
)
def test_in_other_families(family, bits):
    real, slow = both(SHAPES["k<E"], family, bits)
    tokens = mx.array(batch_of(6).tokens)
    close(real(tokens)[0], slow(tokens)[0])


@pytest.mark.parametrize("group", [expert_group, router_group])
def test_a_step_changes_the_same_values_alike(group):
    options, results = TrainingOptions(), []
    for mixture in both(SHAPES["k=E"]):
        level = Level(mixture, [group(options)], options)
        results.append(level.step([batch_of(7)]))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert results[0].norms == pytest.approx(results[1].norms, rel=1e-3)


def test_every_expert_runs_the_whole_mlp():
    """The same FLOPs as the paper's code: down_proj's base product once an expert."""
    calls = []
    model = families.build("llama")

    class Counting(type(model.layers[0].mlp.down_proj)):
        def __call__(self, x):
            calls.append(x.shape)
            return super().__call__(x)

    model.layers[0].mlp.down_proj.__class__ = Counting
    mixture = naive.mixture(model, SHAPES["k<E"])
    calls.clear()
    mixture(mx.array([[1, 2, 3]]))
    assert calls == [(1, 3, 64)] * 4


def test_detaching_leaves_the_model_as_it_was():
    model = families.build("llama")
    before = [(path, id(m), type(m)) for path, m in model.named_modules()]
    own = [set(vars(layer.mlp)) for layer in model.layers]
    naive.mixture(model, SHAPES["k=E"]).detach()
    assert [(path, id(m), type(m)) for path, m in model.named_modules()] == before
    assert [set(vars(layer.mlp)) for layer in model.layers] == own
    assert "router" not in params.flatten(model.parameters())
