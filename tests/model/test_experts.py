"""Parts of the fan-out and mix-back that whole models do not show on their own."""

import mlx.core as mx
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.model import params
from comigs_mlx.model.experts import FanOut, low_ranks
from comigs_mlx.model.lora import DerivedCache, Mode
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.routing import Choice
from comigs_mlx.options import ExpertOptions
from tests.model.naive import naive_logits, randomise

RANK, GENERALISTS = 3, 2
X = mx.random.normal((2, 5, 32), key=mx.random.key(0))


@pytest.fixture(params=["llama", "gpt2"])  # two linears read the input, and one
def mixture(request):
    options = ExpertOptions(generalists=GENERALISTS, specialists=3, rank=RANK, top_k=2)
    mixture = Mixture(families.build(request.param), options)
    randomise(mixture.model)
    return mixture


def choice_among(*experts):
    """A router's choice; only the experts it may take are read here."""
    weights = mx.full((*X.shape[:-1], len(experts)), 1 / len(experts))
    return Choice(weights, None, experts, weights, normalised=True)


def a_of(linear, expert):
    """A of one expert, `[in, r]`, float64."""
    role, at = ("generalist", expert)
    if expert >= GENERALISTS:
        role, at = ("specialist", expert - GENERALISTS)
    return np.array(linear[role].lora_a[at]).astype(np.float64)


class TestLowRanks:
    @pytest.mark.parametrize(
        "among", [(0, 1, 2, 3, 4), (0, 1), (2, 3, 4), (1, 3), (4,), (0,)]
    )
    def test_joined_product_equals_one_an_expert_and_linear(self, mixture, among):
        site = mixture.sites[0]
        readers = [site.mlp[name] for name in site.fan_out]
        assert all(isinstance(reader, FanOut) for reader in readers)
        low = low_ranks(readers, X, choice_among(*among), DerivedCache(Mode()))
        assert list(low) == site.fan_out
        flat = np.array(X).reshape(-1, X.shape[-1]).astype(np.float64)
        for reader, (name, found) in zip(readers, low.items(), strict=True):
            assert found.shape == (len(flat), len(among) * RANK), name
            for slot, expert in enumerate(among):
                expected = flat @ a_of(reader, expert)
                mine = np.array(found)[:, slot * RANK : (slot + 1) * RANK]
                assert np.abs(mine - expected).max() <= 2e-6 * np.abs(expected).max()

    def test_no_two_experts_or_linears_are_alike(self, mixture):
        """What the test above relies on to see them mixed up."""
        site = mixture.sites[0]
        seen = [a_of(site.mlp[n], e).tobytes() for n in site.fan_out for e in range(5)]
        assert len(seen) == len(set(seen)) == 5 * len(site.fan_out)


class TestDerivedCache:
    """How often something is made."""

    A, B = mx.zeros(2), mx.zeros(2)

    def made(self, cache, *calls):
        made = []
        for key, *sources in calls:
            made.append(cache(key, sources, lambda: mx.array(len(made))).item())
        return made

    def test_while_frozen_once_for_a_key(self):
        calls = [("a", self.A), ("b", self.B), ("a", self.A), ("b", self.B)]
        assert self.made(DerivedCache(Mode(frozen=True)), *calls) == [0, 1, 0, 1]

    def test_anew_when_a_source_is_another_array(self):
        calls = [("a", self.A, self.B), ("a", self.A, self.A), ("a", self.A, self.A)]
        assert self.made(DerivedCache(Mode(frozen=True)), *calls) == [0, 1, 1]

    def test_anew_when_a_source_is_an_equal_array(self):
        assert mx.array_equal(self.A, self.B)
        calls = [("a", self.A), ("a", self.B), ("a", self.B)]
        assert self.made(DerivedCache(Mode(frozen=True)), *calls) == [0, 1, 1]

    def test_anew_when_there_are_more_or_fewer_sources(self):
        calls = [("a", self.A), ("a", self.A, self.B), ("a", self.A), ("a",)]
        assert self.made(DerivedCache(Mode(frozen=True)), *calls) == [0, 1, 2, 3]

    def test_otherwise_every_time(self):
        calls = [("a", self.A)] * 3
        assert self.made(DerivedCache(Mode()), *calls) == [0, 1, 2]

    def test_nothing_stays_from_before_it_was_lifted(self):
        mode, call = Mode(frozen=True), ("a", self.A)
        cache = DerivedCache(mode)
        assert self.made(cache, call, call) == [0, 0]
        mode.frozen = False
        assert self.made(cache, ("b", self.B)) == [0]
        mode.frozen = True
        assert self.made(cache, ("b", self.B), call) == [0, 1]


def loss(logits):
    return mx.logsumexp(logits, axis=-1).mean() - logits[..., 5].mean()


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_single_token_is_the_naive_sum_too(family, top_k):
    """It is mixed back by another product; value and gradients."""
    tokens = mx.array([[7]])
    model = families.build(family)
    mixture = Mixture(model, ExpertOptions(specialists=2, top_k=top_k))
    options, sites, flat = mixture.options, mixture.sites, randomise(model)
    logits = model(tokens)
    grad = params.value_and_grad(model, lambda: loss(model(tokens)))
    _, gradients = grad(params.unflatten(flat))
    mx.eval(logits, gradients)
    mixture.detach()

    def naive(values):
        return naive_logits(model, sites, values, options, tokens)

    expected = mx.grad(lambda values: loss(naive(values)))(flat)
    reference = naive(flat)
    assert mx.abs(logits - reference).max() <= 2e-6 * mx.abs(reference).max()
    found = params.flatten(gradients)
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        allowed = 3e-5 * mx.abs(gradient).max() + 1e-6
        assert mx.abs(found[path] - gradient).max() <= allowed, path
