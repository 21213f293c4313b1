"""What a mixture asks each block's router, and how many hidden vectors come of it."""

import mlx.core as mx
import pytest

import tests.model.families as families
from comigs_mlx import registry
from comigs_mlx.model.experts import FanOut
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.routers import topk
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = mx.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
LAYERS, EXPERTS = 2, 3


@pytest.fixture
def mixture():
    made = Mixture(families.build("llama"), ExpertOptions(specialists=2, top_k=2))
    randomise(made.model, std=0.3)
    return made


@pytest.fixture
def asks(monkeypatch):
    """What the blocks' routers are asked, one after the other; each hands one on."""
    seen, real = [], topk.Router.__call__

    def call(router, x, ask):
        seen.append(ask)
        return real(router, x, ask)._replace(carry=(mx.array(float(len(seen))),))

    monkeypatch.setattr(topk.Router, "__call__", call)
    return seen


def test_a_carry_lives_in_one_call(mixture, asks):
    mixture.body(TOKENS)
    mixture.body(TOKENS)
    carries = [[carry.item() for carry in ask.carry] for ask in asks]
    assert carries == [[], [1.0], [], [3.0]]


def test_each_block_has_its_own_noise_and_tilt(mixture, asks):
    shape = (*TOKENS.shape, LAYERS, EXPERTS)
    noise = mx.random.uniform(shape=shape, key=mx.random.key(0))
    tilt = mx.random.normal((LAYERS, EXPERTS), key=mx.random.key(1))
    with mixture.tilted(tilt), mixture.training(noise):
        mixture.body(TOKENS)
    assert len(asks) == LAYERS
    for layer, ask in enumerate(asks):
        assert ask.training
        assert mx.array_equal(ask.noise, noise[:, :, layer])
        assert mx.array_equal(ask.tilt, tilt[layer])


def test_each_row_may_have_its_own_tilt(mixture, asks):
    tilt = mx.random.normal((2, 1, LAYERS, EXPERTS), key=mx.random.key(1))
    with mixture.tilted(tilt):
        mixture.body(TOKENS)
    for layer, ask in enumerate(asks):
        assert mx.array_equal(ask.tilt, tilt[:, :, layer])


def test_in_use_nothing_is_drawn_or_tilted(mixture, asks):
    with mixture.training(mx.zeros((*TOKENS.shape, LAYERS, EXPERTS))):
        pass
    mixture.body(TOKENS)
    assert [(a.training, a.noise, a.tilt, a.k) for a in asks] == [
        (False, None, None, 2)
    ] * LAYERS


@pytest.mark.parametrize("name", registry.names("router"))
@pytest.mark.parametrize(("specialists", "k"), [(0, 1), (1, 1), (1, 2), (3, 1), (3, 2)])
def test_hidden_vectors_are_as_many_as_memory_is_counted_for(
    monkeypatch, name, specialists, k
):
    options = ExpertOptions(specialists=specialists, top_k=k, router_type=name)
    mixture = Mixture(families.build("llama"), options)
    counts, real = set(), FanOut.__call__

    def call(linear, x):
        y = real(linear, x)
        counts.add(y.shape[0])
        return y

    monkeypatch.setattr(FanOut, "__call__", call)
    mixture.body(TOKENS)
    assert counts == {mixture.router.slots(mixture.options)}
