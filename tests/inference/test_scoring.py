"""A scored text: against evaluation, and against a plain forward pass."""

import math

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.data.batches import evaluation_batches
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import scoring
from comigs_mlx.inference.chat_engine import ChatEngine, Stopped
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Evaluator

TEXT = "Dear diary, today we saw a crane."
SELECTIONS = ["auto", "base", "generalist", "specialist"]


@pytest.fixture(scope="module")
def run(trained):
    return trained(specialists=2, learning_rate=0.05)


@pytest.fixture
def engine(run):
    made = ChatEngine()
    made.choose(run)
    yield made
    made.close()


def test_perplexities_are_those_of_evaluation(engine, run):
    scored = engine.score(TEXT, SELECTIONS)
    base, mixture = RunFolder(run).load()
    ids = np.array(base.tokenizer.encode(TEXT, add_special_tokens=False), np.int32)
    stream = TokenStream(ids, np.zeros_like(ids))
    evaluator = Evaluator(mixture)
    for name in SELECTIONS:
        expected = evaluator.score(evaluation_batches(stream, 64, 1), name)
        assert scored.perplexity[name] == pytest.approx(expected.perplexity, rel=1e-4)
        losses = [token.losses[name] for token in scored.tokens[1:]]
        assert math.exp(sum(losses) / len(losses)) == pytest.approx(
            scored.perplexity[name]
        )
    assert len({round(value, 3) for value in scored.perplexity.values()}) == 4


def test_losses_and_weights_are_those_of_a_full_pass(engine, run):
    scored = engine.score(TEXT, ["auto"])
    base, mixture = RunFolder(run).load()
    ids = mx.array([[token.id for token in scored.tokens]])
    logits, routing = mixture(ids)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0]
    expected = [-logs[i, t.id] for i, t in enumerate(scored.tokens[1:])]
    found = [token.losses["auto"] for token in scored.tokens[1:]]
    assert np.allclose(found, expected, atol=1e-4)
    weights = np.array([token.weights for token in scored.tokens])
    full = np.array(routing.weights[:, 0].transpose(1, 0, 2))
    assert np.abs(weights - full).max() < 1e-5
    assert scored.tokens[0].losses == {"auto": None}


def test_texts_of_the_tokens_are_the_text(engine):
    text = "Zoë: naïve 🐦 café"
    scored = engine.score(text, ["auto"])
    assert "".join(token.text for token in scored.tokens) == text


def test_weights_are_the_router_s_whatever_is_scored(engine):
    auto = engine.score(TEXT, ["auto"])
    base = engine.score(TEXT, ["base"])
    assert list(base.perplexity) == ["base"]
    assert [t.weights for t in base.tokens] == [t.weights for t in auto.tokens]


def test_a_base_alone(engine, run, tiny_folder):
    with_run = engine.score(TEXT, ["base"])
    engine.choose(None, str(tiny_folder()))
    alone = engine.score(TEXT, ["base"])
    assert alone.perplexity["base"] == pytest.approx(with_run.perplexity["base"])
    assert (alone.experts, alone.layers) == ([], [])
    assert all(token.weights == [] for token in alone.tokens)
    with pytest.raises(ConfigError, match="no generalist without a run"):
        engine.score(TEXT, ["generalist"])


def test_two_runs_side_by_side(engine, run, trained):
    other = trained(specialists=2, learning_rate=0.05, seed=1)
    found = []
    for each in (run, other, run):
        engine.choose(each)
        found.append(engine.score(TEXT, ["auto"]).perplexity["auto"])
    first, second, again = found
    assert first == again
    assert first != second


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "too short"), ("x", "too short"), ("x" * 500, "reads at most 128: give")],
)
def test_texts_that_cannot_be_scored(engine, text, problem):
    with pytest.raises(ConfigError, match=problem):
        engine.score(text, ["auto"])


def test_an_unknown_selection(engine):
    with pytest.raises(ConfigError, match="unknown experts 'everyone'"):
        engine.score(TEXT, ["everyone"])


class TestInChunks:
    """Read in parts, so that it can be stopped between them."""

    @pytest.fixture
    def small(self, monkeypatch):
        def chunks(size):
            monkeypatch.setattr(scoring, "chunk_tokens", lambda: size)

        return chunks

    @pytest.mark.parametrize("size", [1, 7, 16, len(TEXT) - 1, len(TEXT)])
    @pytest.mark.parametrize("family", ["llama", "gemma3_text"])
    def test_the_numbers_are_those_of_one_pass(
        self, engine, trained, small, size, family
    ):
        engine.choose(trained(family, specialists=2, learning_rate=0.05))
        small(1000)
        whole = engine.score(TEXT, SELECTIONS)
        small(size)
        parts = engine.score(TEXT, SELECTIONS)
        for one, other in zip(parts.tokens, whole.tokens, strict=True):
            assert np.allclose(one.weights, other.weights, atol=1e-5)
            for name in SELECTIONS:
                assert one.losses[name] == pytest.approx(other.losses[name], abs=1e-4)

    def test_progress_reaches_its_end(self, engine, small):
        small(8)
        told = []
        tokens = engine.score(TEXT, ["base", "auto"], listen=told.append).tokens
        assert {(one.what, one.total) for one in told} == {("scoring", 2 * len(tokens))}
        done = [one.done for one in told]
        assert done == sorted(done)
        assert (done[0], done[1], done[-1]) == (0, 8, 2 * len(tokens))

    def test_a_stop_is_heard_within_a_chunk(self, engine, small):
        small(8)
        told = []
        with pytest.raises(Stopped, match="stopped"):
            engine.score(
                TEXT, SELECTIONS, stop=lambda: len(told) > 1, listen=told.append
            )
        assert told[-1].done == 8
        assert engine.score(TEXT, ["auto"]).perplexity["auto"] > 1


def test_text_that_is_not_utf_8(engine):
    with pytest.raises(ConfigError, match="the text is not text in UTF-8: its char"):
        engine.score("half \ud83d", ["auto"])
