"""Steering: who is busier on a text, by how much, and what that changes."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import steering, tilts, windows
from comigs_mlx.inference.settings import Settings
from comigs_mlx.inference.steering import Activity, activity, busier, middle
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TEXT = "zzzz qqqq zzzz qqqq " * 20


@pytest.fixture
def engine(tiny_folder):
    def make(**options):
        base = load_base(str(tiny_folder("llama")))
        mixture = Mixture(base.model, ExpertOptions(**options))
        randomise(mixture.model, std=0.3)
        return base, mixture

    return make


def test_activity_is_mean_and_deviation_of_the_weights(engine):
    base, mixture = engine(specialists=2, top_k=2)
    texts = windows.of_text(base, TEXT, "it")
    weights = []
    for window in texts:
        _, routing = mixture(window)
        weights.append(np.array(routing.weights[:, 0]))
    weights = np.concatenate(weights, axis=1)
    with mixture.selected("generalist"), mixture.tilted(mx.ones((2, 3))):
        found = activity(mixture, texts)
    assert found.tokens == weights.shape[1] == len(TEXT)
    assert np.abs(found.mean - weights.mean(1)).max() < 1e-5
    assert np.abs(found.deviation - weights.std(1)).max() < 1e-4


def of(mean, deviation=0.1, tokens=4000):
    mean = np.array([[mean, 1 - mean]], np.float32)
    return Activity(mean, np.full_like(mean, deviation), tokens)


@pytest.mark.parametrize(
    ("text", "generic", "expected"),
    [
        (of(0.6), of(0.5), [1, 0]),
        (of(0.4), of(0.5), [0, 1]),
        (of(0.515), of(0.5), [0, 0]),  # 0.15 deviations
        (of(0.525), of(0.5), [1, 0]),  # 0.25
        (of(0.525, tokens=50), of(0.5), [0, 0]),  # less than twice the error
        (of(0.5, 0.0), of(0.5, 0.0), [0, 0]),
        (of(0.5 + 1e-6, 0.0), of(0.5, 0.0), [0, 0]),  # rounding
    ],
)
def test_busier_is_clearly_more_than_on_generic_text(text, generic, expected):
    assert busier(text, generic).tolist() == [expected]


@pytest.mark.parametrize(
    ("layers", "steered"), [(1, [0]), (2, [0, 1]), (4, [1, 2]), (30, range(7, 23))]
)
def test_the_middle_half_is_steered(layers, steered):
    assert list(range(layers))[middle(layers)] == list(steered)


def test_nothing_outside_the_middle_is_tilted(engine):
    _, mixture = engine()
    mixture.sites = mixture.sites * 4  # as in a model of 8 blocks
    one, other = (
        Activity(*(np.repeat(a, 8, axis=0) for a in made[:2]), 4000)
        for made in (of(0.9), of(0.1))
    )
    tilt = steering.rows(mixture, one, other, -1.5)
    assert tilt.tolist() == [[-1.5 * (2 <= i < 6), 0.0] for i in range(8)]


def test_more_of_who_is_busy_on_the_text(engine):
    """Of the tilted experts, the weight on the text is larger than it was."""
    base, mixture = engine()
    said = []
    asked = (Settings(tilt=((0.0, 0.25),) * 2), base, mixture, TEXT, 1.0)
    settings = steering.steered(*asked, "it.txt", said.append)
    tilt = tilts.rows(mixture, settings) - np.float32([0, 0.25])
    assert set(tilt.ravel().tolist()) == {0.0, 1.0}
    assert said[0].startswith("note: steering by it.txt: +1 for the ")
    texts = windows.of_text(base, TEXT, "it")
    _, before = mixture(texts[0])
    with mixture.tilted(mx.array(tilt)):
        _, after = mixture(texts[0])
    grown = np.array((after.weights - before.weights).mean((1, 2)))
    assert (grown[tilt > 0] > 0.02).all()


def test_where_nobody_is_busier_nothing_is_steered(engine, monkeypatch):
    base, mixture = engine()
    said, texts = [], windows.of_text(base, TEXT, "it")
    monkeypatch.setattr(windows, "generic", lambda base: texts)
    settings = steering.steered(
        Settings(), base, mixture, TEXT, 1.0, "it.txt", said.append
    )
    assert not np.any(settings.tilt)
    assert tilts.of_settings(mixture, settings) is None
    assert "no expert is busier on it.txt" in said[0]


def test_a_text_that_is_too_short(engine):
    base, _ = engine()
    with pytest.raises(ConfigError, match="it has 2 tokens, too few to tell anything"):
        windows.of_text(base, "ab", "it")


def test_generic_text_is_that_of_three_writers(engine):
    base, _ = engine()
    found = windows.generic(base)
    total = sum(window.size for window in found)
    assert total == pytest.approx(3 * min(windows.MOST_TOKENS, 8_000 // 3), rel=0.1)
    assert max(window.shape[1] for window in found) == windows.LENGTH


def test_settings_keep_what_else_was_asked(engine):
    base, mixture = engine()
    asked = Settings(lean=1.0, stop=("x",))
    made = steering.steered(asked, base, mixture, TEXT, 1.0)
    assert replace(made, tilt=()) == asked
