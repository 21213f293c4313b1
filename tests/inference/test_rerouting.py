"""Rerouting: the loss of the context falls, nothing else moves, whose words count."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import rerouting, tilts
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model import params
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = list(b"the keeper wrote down the wind and the sails, and slept")
SHAPES = [{}, {"specialists": 3, "top_k": 4}, {"router_type": "recurrent"}]


@pytest.fixture
def engine(tiny_folder):
    def make(**options):
        base = load_base(str(tiny_folder("llama")))
        mixture = Mixture(base.model, ExpertOptions(**options))
        randomise(mixture.model, std=0.3)
        return base, mixture

    return make


def values(mixture):
    kept = params.flatten(params.select(mixture.model, params.ROLES))
    return {name: np.array(value) for name, value in kept.items()}


@pytest.mark.parametrize("options", SHAPES)
def test_one_step_lowers_the_loss_of_the_context(engine, options):
    _, mixture = engine(**options)
    start = tilts.lean_rows(mixture, 0.5)
    before = values(mixture)
    delta, (loss, best) = rerouting.found(mixture, TOKENS, start, steps=1)
    row = mx.array([TOKENS])
    after = rerouting.loss(mixture, row, tilts.as_input(start + delta)).item()
    assert after < loss
    assert after == pytest.approx(best)
    assert np.abs(delta).max() == pytest.approx(rerouting.RATE, rel=1e-3)
    expected = rerouting.loss(mixture, row, tilts.as_input(start)).item()
    assert loss == pytest.approx(expected)
    for name, value in values(mixture).items():
        assert np.array_equal(value, before[name])
    assert mixture.call.tilt is None


def test_more_steps_lower_it_further(engine):
    _, mixture = engine()
    start = tilts.lean_rows(mixture, 0.0)
    _, one = rerouting.found(mixture, TOKENS, start, steps=1)
    delta, losses = rerouting.found(mixture, TOKENS, start, steps=5)
    assert losses[:2] == pytest.approx(one)
    assert min(losses) < min(one)
    found = rerouting.loss(mixture, mx.array([TOKENS]), mx.array(delta))
    assert found.item() == pytest.approx(min(losses))


def test_where_no_step_helps_nothing_is_tilted(engine, monkeypatch):
    """Steps up the slope."""
    _, mixture = engine()
    monkeypatch.setattr(rerouting, "RATE", -0.01)
    start = tilts.lean_rows(mixture, 0.0)
    delta, losses = rerouting.found(mixture, TOKENS, start, steps=2)
    assert not delta.any()
    assert min(losses) == losses[0]


def test_the_loss_is_the_mean_over_the_context(engine):
    _, mixture = engine()
    tilt = tilts.as_input(tilts.lean_rows(mixture, -1.0))
    with mixture.tilted(tilt):
        logits, _ = mixture(mx.array([TOKENS[:-1]]))
    logs = np.array(logits[0] - mx.logsumexp(logits[0], -1, keepdims=True))
    expected = -np.mean([logs[i, token] for i, token in enumerate(TOKENS[1:])])
    found = rerouting.loss(mixture, mx.array([TOKENS]), tilt).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_users_own_words_are_no_context(engine):
    base, _ = engine()
    turns = [
        {"role": "user", "content": "my own words"},
        {"role": "assistant", "content": "theirs"},
        {"role": "user", "content": "and mine"},
        {"role": "assistant", "content": "again"},
    ]
    found = rerouting.context(base, turns, "pasted")
    assert base.tokenizer.decode(found) == "pasted\n\ntheirs\n\nagain"
    assert rerouting.context(base, turns[:1]) == []
    most = len(rerouting.context(base, pasted="x" * 2000))
    assert most == min(rerouting.MOST_TOKENS, base.context)


class TestRerouted:
    def test_adds_to_what_was_tilted(self, engine):
        _, mixture = engine()
        said, asked = [], Settings(lean=0.5, tilt=((0.0, 1.0),) * 2, reroute=2)
        made = rerouting.rerouted(asked, mixture, TOKENS, said.append)
        start = tilts.lean_rows(mixture, 0.5) + np.float32([0, 1])
        delta, losses = rerouting.found(mixture, TOKENS, start, 2)
        assert replace(made, tilt=asked.tilt) == asked
        assert np.array(made.tilt) == pytest.approx(np.float32([0, 1]) + delta)
        assert f"the loss of the context from {losses[0]:.4f} to " in said[0]

    def test_is_off_by_default_and_without_a_context(self, engine):
        _, mixture = engine()
        assert rerouting.rerouted(Settings(), mixture, TOKENS) == Settings()
        asked = Settings(reroute=5)
        assert rerouting.rerouted(asked, mixture, TOKENS[:7]) == asked


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"reroute": -1}, "reroute -1 must be from 0 to 100"),
        ({"reroute": 101}, "reroute 101 must be from 0 to 100"),
        ({"reroute": 1, "selection": "base"}, "reroute moves the router's choice"),
    ],
)
def test_values_that_cannot_work(wrong, text):
    with pytest.raises(ConfigError, match=text):
        replace(Settings(), **wrong).check()
