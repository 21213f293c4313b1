"""Text with a trace: the routing of every position, however mlx-lm read it."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.inference import generation as loop
from comigs_mlx.inference.generation import Generation, Recorder
from comigs_mlx.inference.prompts import prompt_tokens
from comigs_mlx.inference.replies import Progress, Watch
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

PROMPT = list(b"Dear diary, today we")


@pytest.fixture
def engine(tiny_folder):
    """(family, options) -> a base with random experts that matter, and its mixture."""

    def make(family="llama", **options):
        base = load_base(str(tiny_folder(family)))
        mixture = Mixture(base.model, ExpertOptions(**options))
        randomise(mixture.model, std=0.2)
        return base, mixture

    return make


def full_pass(mixture, tokens):
    """Weights `[tokens, layers, E]` of one forward pass without a cache."""
    _, routing = mixture(mx.array([tokens]))
    return np.array(routing.weights[:, 0].transpose(1, 0, 2))


def settings(max_tokens, **sampling):
    greedy = {"temperature": 0.0, "top_p": 1.0, "seed": 0}
    return Settings(max_tokens=max_tokens, **greedy | sampling)


def answer(base, mixture, max_tokens=8, prompt=PROMPT, **sampling):
    generation = Generation(base, mixture, prompt, settings(max_tokens, **sampling))
    list(generation)
    return generation


@pytest.mark.parametrize("options", [{}, {"specialists": 3, "top_k": 2}])
@pytest.mark.parametrize("prefill", [1, 3, 7, 2048])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_recorder_equals_a_full_pass_at_every_position(
    engine, family, prefill, options
):
    base, mixture = engine(family, **options)
    recorder = Recorder(mixture)
    steps = generate_step(
        mx.array(PROMPT), recorder, max_tokens=6, prefill_step_size=prefill
    )
    tokens = PROMPT + [token for token, _ in steps]
    assert len(tokens) == len(PROMPT) + 6
    found = recorder.weights(len(tokens))
    expected = full_pass(mixture, tokens)
    assert found.shape == (len(tokens), 2, mixture.options.experts)
    assert np.abs(found - expected).max() < 1e-5
    # Neighbours differ by far more than that, so that no position is off by one.
    assert np.abs(np.diff(expected, axis=0)).max(axis=(1, 2)).min() > 1e-3


def test_trace_equals_a_full_pass(engine, monkeypatch):
    """Through `stream_generate`, with a prompt that is read in several chunks."""
    monkeypatch.setattr(loop, "chunk_tokens", lambda: 6)
    base, mixture = engine(specialists=2)
    generation = answer(base, mixture)
    trace = generation.trace()
    tokens = PROMPT + [piece.id for piece in generation.tokens]
    assert [token.id for token in trace.tokens] == tokens
    assert [token.prompt for token in trace.tokens] == [
        position < len(PROMPT) for position in range(len(tokens))
    ]
    weights = np.array([token.weights for token in trace.tokens])
    assert np.abs(weights - full_pass(mixture, tokens)).max() < 1e-5
    assert trace.experts == ["generalist", "specialist", "specialist-1"]
    assert trace.layers == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert trace.model == base.id


def test_tokens_are_those_of_greedy_full_passes(engine):
    base, mixture = engine()
    generation = answer(base, mixture, max_tokens=6)
    tokens = list(PROMPT)
    for piece in generation.tokens:
        logits, _ = mixture(mx.array([tokens]))
        assert piece.id == logits[0, -1].argmax().item()
        tokens.append(piece.id)
    assert [piece.finish_reason for piece in generation.tokens] == [None] * 5 + [
        "length"
    ]


def test_the_last_token_of_a_stopped_answer_is_routed_too(engine):
    """An answer that ends with EOS: its weights stand in the trace like any other's."""
    base, mixture = engine()
    (first, *_) = answer(base, mixture, max_tokens=3).tokens
    base.tokenizer.eos_token_ids = {first.id}
    generation = answer(base, mixture, max_tokens=5)
    assert [piece.finish_reason for piece in generation.tokens] == ["stop"]
    tokens = [*PROMPT, first.id]
    weights = [token.weights for token in generation.trace().tokens]
    assert np.abs(np.array(weights) - full_pass(mixture, tokens)).max() < 1e-5


def test_a_trace_of_an_answer_left_early(engine):
    base, mixture = engine()
    generation = Generation(base, mixture, PROMPT, settings(50))
    for _, piece in zip(range(3), generation, strict=False):
        assert piece.finish_reason is None
    tokens = PROMPT + [piece.id for piece in generation.tokens]
    assert len(tokens) == len(PROMPT) + 3
    weights = np.array([token.weights for token in generation.trace().tokens])
    assert np.abs(weights - full_pass(mixture, tokens)).max() < 1e-5


def test_asking_again_begins_anew(engine):
    generation = answer(*engine())
    first = [piece.id for piece in generation], generation.trace()
    assert ([piece.id for piece in generation], generation.trace()) == first


def test_a_prompt_of_one_token(engine):
    base, mixture = engine()
    generation = answer(base, mixture, max_tokens=2, prompt=PROMPT[:1])
    tokens = PROMPT[:1] + [piece.id for piece in generation.tokens]
    weights = np.array([token.weights for token in generation.trace().tokens])
    assert np.abs(weights - full_pass(mixture, tokens)).max() < 1e-5


@pytest.mark.parametrize(
    ("selection", "weights"),
    [
        ("base", [0.0, 0.0]),
        ("generalist", [1.0, 0.0]),
        ("specialist", [0.0, 1.0]),
        ((0.25, 0.5), [0.25, 0.5]),
    ],
)
def test_selections_that_fix_the_weights(engine, selection, weights):
    base, mixture = engine()
    with mixture.selected(selection):
        trace = answer(base, mixture, max_tokens=3).trace()
    found = np.array([token.weights for token in trace.tokens])
    assert found.shape == (len(PROMPT) + 3, 2, 2)
    assert np.array_equal(found, np.broadcast_to(np.float32(weights), found.shape))


def test_base_speaks_like_the_bare_model(engine):
    base, mixture = engine()
    with mixture.selected("base"):
        ours = [piece.id for piece in answer(base, mixture).tokens]
    mixed = [piece.id for piece in answer(base, mixture).tokens]
    mixture.detach()
    steps = generate_step(mx.array(PROMPT), base.model, max_tokens=8)
    assert ours == [token for token, _ in steps]
    assert ours != mixed


def test_a_seed_draws_the_same_text_again(engine):
    base, mixture = engine()

    def ids(seed):
        generation = answer(base, mixture, 12, temperature=1.5, seed=seed)
        return [piece.id for piece in generation.tokens]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_text_is_the_pieces_and_the_tokenizers_own(engine):
    base, mixture = engine()
    generation = answer(base, mixture, max_tokens=12)
    ids = [piece.id for piece in generation.tokens]
    assert generation.text == "".join(piece.text for piece in generation.tokens)
    assert generation.text == base.tokenizer.decode(ids)


def test_weights_are_asked_for_by_position(engine):
    """The first ones, also when more has been read by now."""
    _, mixture = engine()
    recorder = Recorder(mixture)
    cache = make_prompt_cache(recorder)
    for token in PROMPT[:6]:
        recorder(mx.array([[token]]), cache=cache)
    expected = full_pass(mixture, PROMPT[:6])
    for count in (1, 4, 6):
        assert np.abs(recorder.weights(count) - expected[:count]).max() < 1e-5


def test_weights_of_one_position_are_those_of_a_full_pass(engine):
    """Wherever it lies in a chunk; chunks of several sizes."""
    _, mixture = engine(specialists=2)
    recorder, start = Recorder(mixture), 0
    cache = make_prompt_cache(recorder)
    expected = full_pass(mixture, PROMPT)
    for size in (5, 1, 7, 1, 1, 5):
        recorder(mx.array([PROMPT[start : start + size]]), cache=cache)
        start += size
        for position in range(start):
            found = np.array(recorder.at(position))
            assert np.abs(found - expected[position]).max() < 1e-5
    assert start == len(PROMPT)


def test_top_p_keeps_to_the_likeliest(engine):
    """Hot enough to draw anything; of so little probability there is one token only."""
    base, mixture = engine()

    def ids(**sampling):
        return [p.id for p in answer(base, mixture, 12, **sampling).tokens]

    greedy = ids()
    for seed in range(3):
        assert ids(temperature=50.0, top_p=1e-6, seed=seed) == greedy
        assert ids(temperature=50.0, top_p=1.0, seed=seed) != greedy


class TestRefused:
    """What an engine refuses is refused here too; see `test_chat_engine`."""

    @pytest.mark.parametrize(
        ("sampling", "text"),
        [
            ({"temperature": -1.0}, "temperature -1.0 must be from 0 to 100"),
            ({"temperature": float("nan")}, "temperature nan must be from 0 to 100"),
            ({"temperature": float("inf")}, "temperature inf must be from 0 to 100"),
            ({"top_p": 0.0}, "top-p 0.0 must be above 0 and at most 1"),
            ({"top_p": float("nan")}, "top-p nan must be"),
            ({"seed": -1}, "seed -1 must be from 0"),
            ({"seed": 2**64}, f"seed {2**64} must be from 0"),
        ],
    )
    def test_settings(self, engine, sampling, text):
        with pytest.raises(ConfigError, match=text):
            Generation(*engine(), PROMPT, settings(8, **sampling))

    def test_nothing_to_generate_or_to_read(self, engine):
        base, mixture = engine()
        with pytest.raises(ConfigError, match="max tokens 0 must be at least 1"):
            Generation(base, mixture, PROMPT, settings(0))
        with pytest.raises(ConfigError, match="the prompt is empty"):
            Generation(base, mixture, [], settings(8))

    def test_a_prompt_longer_than_the_context(self, engine):
        base, mixture = engine()
        with pytest.raises(ConfigError) as error:
            Generation(base, mixture, [1] * 128, settings(8))
        text = f"the prompt is 128 tokens long, {base.id} reads at most 128: shorten it"
        assert str(error.value) == text

    def test_tokens_without_a_row(self, engine):
        with pytest.raises(ModelError, match="the prompt has token id 300"):
            Generation(*engine(), [1, 300], settings(8))

    def test_the_last_seed_and_the_last_place_are_taken(self, engine):
        base, mixture = engine()
        made = answer(base, mixture, 50, [1] * 125, temperature=1.0, seed=2**64 - 1)
        assert len(made.tokens) <= 3
        base.tokenizer.eos_token_ids = set()
        made = answer(base, mixture, 50, [1] * 125)
        assert len(made.tokens) == 3
        assert made.tokens[-1].finish_reason == "length"


def test_reading_is_told_chunk_by_chunk_and_may_be_ended(engine, monkeypatch):
    monkeypatch.setattr(loop, "chunk_tokens", lambda: 6)
    base, mixture = engine()
    told = []

    def listen(progress):
        told.append(progress)
        if progress.done == 12:
            raise KeyboardInterrupt

    generation = Generation(base, mixture, PROMPT, settings(8), Watch(listen=listen))
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    assert told == [Progress("reading", done, len(PROMPT)) for done in (0, 6, 12)]
    assert generation.tokens == []


def test_recorder_passes_for_the_model(engine):
    base, mixture = engine()
    recorder = Recorder(mixture)
    assert recorder.layers is base.model.layers
    assert len(make_prompt_cache(recorder)) == 2
    logits = recorder(mx.array([PROMPT]))
    assert mx.array_equal(logits, base.model(mx.array([PROMPT])))
    assert not hasattr(recorder, "no_such_thing")


class TestPromptTokens:
    def test_chat_template_ends_where_the_assistant_begins(self, engine):
        base, _ = engine()
        tokens = prompt_tokens(base.tokenizer, "Hi", system="Be kind.")
        assert base.tokenizer.decode(tokens) == (
            "<|im_start|>system\nBe kind.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_without_template_the_prompt_is_continued(self, engine):
        base, _ = engine()
        assert prompt_tokens(base.tokenizer, "Hi", template=False) == list(
            base.tokenizer.encode("Hi", add_special_tokens=False)
        )

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"prompt": "Hi", "system": "x"}, "a system prompt needs the model's chat"),
            ({"prompt": ""}, "the prompt is empty: give some text with --prompt"),
        ],
    )
    def test_what_cannot_be_asked(self, engine, arguments, text):
        base, _ = engine()
        with pytest.raises(ConfigError, match=text):
            prompt_tokens(base.tokenizer, template=False, **arguments)
