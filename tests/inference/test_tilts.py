"""Tilts: one input of every function that runs a mixture, and laws that hold for it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import tilts
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

PROMPT = list(b"Dear diary, today we")
SETTINGS = Settings(temperature=0.0, max_tokens=4, seed=0)
SHAPES = [{"specialists": 2}, {"specialists": 2, "generalists": 2, "top_k": 2}]


@pytest.fixture
def engine(tiny_folder):
    """(options) -> a base with random experts that matter, and its mixture."""

    def make(**options):
        base = load_base(str(tiny_folder("llama")))
        base.tokenizer.eos_token_ids = set()
        mixture = Mixture(base.model, ExpertOptions(**options))
        randomise(mixture.model, std=0.3)
        return base, mixture

    return make


def spoken(base, mixture, prompts=None, **given):
    """Tokens, and the weights `[tokens, layers, E]` of what was read and said."""
    settings = replace(SETTINGS, **given)
    made = Generation(base, mixture, PROMPT, settings, prompts=prompts, speaker="one")
    ids = [token.id for token in made]
    return ids, np.array([token.weights for token in made.trace().tokens])


def constant(mixture, *row):
    return (row,) * len(mixture.sites)


@pytest.mark.parametrize("options", SHAPES)
class TestLaws:
    def test_a_tilt_of_0_is_none_bit_for_bit(self, engine, options):
        base, mixture = engine(**options)
        ids, weights = spoken(base, mixture)
        zeros = constant(mixture, *[0.0] * mixture.options.experts)
        for zero in ({"lean": 0.0}, {"tilt": zeros}):
            again, same = spoken(base, mixture, **zero)
            assert again == ids
            assert np.array_equal(same, weights)
        nothing = tilts.as_input(tilts.lean_rows(mixture, 0.0))
        tokens = mx.array([PROMPT])
        expected, _ = mixture(tokens)
        with mixture.tilted(nothing):
            found, _ = mixture(tokens)
        assert mx.array_equal(found, expected)

    def test_equal_tilts_change_nothing(self, engine, options):
        base, mixture = engine(**options)
        ids, weights = spoken(base, mixture)
        equal = constant(mixture, *[2.5] * mixture.options.experts)
        again, same = spoken(base, mixture, tilt=equal)
        assert again == ids
        assert np.abs(same - weights).max() < 1e-5

    def test_a_large_tilt_on_one_expert_is_that_expert_alone(self, engine, options):
        base, mixture = engine(**options)
        for expert in range(mixture.options.experts):
            alone = np.eye(mixture.options.experts)[expert].tolist()
            large = [1e4 * weight for weight in alone]
            ids, weights = spoken(base, mixture, tilt=constant(mixture, *large))
            with mixture.selected(tuple(alone)):
                expected, only = spoken(base, mixture, selection=tuple(alone))
            assert ids == expected
            assert np.abs(weights - only).max() < 1e-6

    def test_a_lean_multiplies_the_odds_of_the_specialists(self, engine, options):
        first = options.get("generalists", 1)
        base, mixture = engine(**options | {"top_k": first + options["specialists"]})

        def odds(weights):
            return weights[0, 0, first:].sum() / weights[0, 0, :first].sum()

        _, before = spoken(base, mixture)
        for lean in (-1.0, 0.7):
            _, after = spoken(base, mixture, lean=lean)
            assert odds(after) / odds(before) == pytest.approx(np.exp(lean), rel=1e-4)


def test_lean_and_tilt_add_up(engine):
    _, mixture = engine()
    settings = replace(SETTINGS, lean=0.5, tilt=((0.25, 0.0), (0.0, -0.5)))
    total = tilts.of_settings(mixture, settings)
    assert total.tolist() == [[0.25, 0.5], [0.0, 0.0]]
    assert tilts.of_settings(mixture, SETTINGS) is None
    assert tilts.of_settings(mixture, replace(settings, tilt=((0, -0.5),) * 2)) is None


def test_what_was_read_with_another_tilt_is_read_again(engine, monkeypatch):
    """Keys and values depend on the tilt; with the same one they are used again."""
    base, mixture = engine()
    read, prompts = [], PromptCache()
    take = prompts.take

    def noting(*asked):
        cache, count = take(*asked)
        read.append(count)
        return cache, count

    monkeypatch.setattr(prompts, "take", noting)
    other = {"tilt": ((0.0, 0.5), (0.0, 0.5))}
    for given in (
        {},
        {},
        {"lean": 1.0},
        {"lean": 1.0},
        {"lean": 1.5},
        {},
        other,
        other,
    ):
        spoken(base, mixture, prompts, **given)
    most = len(PROMPT) - 1
    assert read == [0, most, 0, most, 0, most, 0, most]


def test_the_same_tilt_by_another_way_has_the_same_digest(engine):
    _, mixture = engine()
    by_lean = tilts.of_settings(mixture, replace(SETTINGS, lean=0.5))
    by_rows = tilts.of_settings(mixture, replace(SETTINGS, tilt=((0.0, 0.5),) * 2))
    assert tilts.digest(by_lean) == tilts.digest(by_rows) != tilts.digest(None)


@pytest.mark.parametrize(
    "tilt", [((0.0, 1.0),), ((0.0,), (1.0,)), ((0.0, 1.0), (1.0,))]
)
def test_a_tilt_of_another_shape(engine, tilt):
    with pytest.raises(ConfigError, match=r"expected 2 rows \(blocks\) of 2 \(experts"):
        Generation(*engine(), PROMPT, replace(SETTINGS, tilt=tilt))


def test_nothing_to_lean_to(engine):
    base, mixture = engine(specialists=0)
    with pytest.raises(ConfigError, match="only experts here are generalist: leave it"):
        Generation(base, mixture, PROMPT, replace(SETTINGS, lean=1.0))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"lean": np.nan}, "lean nan must be from -50 to 50"),
        ({"lean": 50.5}, "lean 50.5 must be from -50 to 50"),
        ({"tilt": ((0.0, np.inf),)}, "tilt must hold finite numbers"),
        (
            {"lean": 1.0, "selection": "base"},
            "lean moves the router's choice: it needs",
        ),
        (
            {"tilt": ((1.0,),), "selection": (0.5, 0.5)},
            "tilt moves the router's choice",
        ),
    ],
)
def test_values_that_cannot_work(wrong, text):
    with pytest.raises(ConfigError, match=text):
        replace(SETTINGS, **wrong).check()
