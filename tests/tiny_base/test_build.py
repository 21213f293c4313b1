"""From text to a base model in one call."""

import json
import math

import numpy as np
import pytest

from comigs_mlx.config import from_dict
from comigs_mlx.data.batches import evaluation_batches
from comigs_mlx.data.splits import divide
from comigs_mlx.data.tokens import token_stream
from comigs_mlx.errors import ConfigError, DataError
from comigs_mlx.model.base import load_base
from comigs_mlx.tiny_base import pretraining
from comigs_mlx.tiny_base.build import BuildResult, BuildStep, Recipe, make

WORDS = "ant bee cow doe elk fox gnu hen".split()
TEXTS = [" ".join(WORDS[(i + j) % 8] for j in range(12)) + f" {i}." for i in range(200)]
SMALL = {"blocks": 1, "width": 16, "heads": 2, "context": 16, "vocabulary": 270}


def recipe(folder, **options):
    given = {**SMALL, "steps": 6, "batch_size": 2, "out": str(folder), **options}
    return from_dict(Recipe, given)


def test_it_writes_a_base_and_measures_what_it_wrote(tmp_path):
    *updates, outcome = make(recipe(tmp_path / "base"), TEXTS)
    assert [update.step for update in updates] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(u, BuildStep) and u.steps == 6 for u in updates)
    assert isinstance(outcome, BuildResult)
    assert outcome.perplexity == pytest.approx(math.exp(outcome.loss))
    base = load_base(str(tmp_path / "base"))
    unseen = divide({"all": [{"text": text} for text in TEXTS]})["test"]
    stream = token_stream(unseen, base.tokenizer)
    assert outcome.heldout_tokens == len(stream.tokens) - 1
    loss = pretraining.heldout_loss(base.model, evaluation_batches(stream, 16, 2))
    assert loss == pytest.approx(outcome.loss, rel=1e-5)
    notes = json.loads((tmp_path / "base" / "training.json").read_text())
    assert notes["outcome"]["loss"] == outcome.loss
    assert notes["recipe"]["steps"] == 6
    assert "out" not in notes["recipe"]


def test_it_learns(tmp_path):
    steps = {"steps": 60, "learning_rate": 1e-2}
    *updates, _ = make(recipe(tmp_path / "base", **steps), TEXTS)
    losses = [update.loss for update in updates]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1


def test_equal_seeds_equal_files(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(make(recipe(tmp_path / name, seed=seed), TEXTS))
    files = ("model.safetensors", "tokenizer.json", "config.json")
    a, b, c = ([(tmp_path / n / f).read_bytes() for f in files] for n in "abc")
    assert a == b
    assert a[0] != c[0]


def test_minutes_instead_of_steps(tmp_path):
    *updates, outcome = make(recipe(tmp_path / "base", minutes=0.005), TEXTS)
    assert outcome.steps == len(updates) == updates[0].steps
    # The trial that measures the speed leaves no trace in the weights.
    again = recipe(tmp_path / "again", steps=outcome.steps)
    assert list(make(again, TEXTS))[-1].loss == outcome.loss


def test_stopped_early_it_leaves_nothing(tmp_path):
    updates = make(recipe(tmp_path / "base"), TEXTS)
    next(updates)
    updates.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(ConfigError, match="exists: remove it, or choose another --out"):
        next(make(recipe(tmp_path), TEXTS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "found 0 and 0 documents: add documents"),
        (TEXTS[:40], "expected at least 4097 tokens for one window"),
    ],
)
def test_too_little_text(tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        next(make(recipe(tmp_path / "base", context=4096), texts))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps 0 must be at least 1"),
        ({"vocabulary": 256}, "--vocabulary 256 must be at least 257"),
        ({"width": 10, "heads": 3}, "--width 10 must be a multiple of --heads 3"),
        ({"minutes": 0.0}, "--minutes 0.0 must be a number above 0"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0 must be a number above 0"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Recipe, options)
