"""The one range check, stop words, and what mlx-lm's sampling does with the rest."""

import math
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.settings import Settings, StopTexts
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions

KEPT = {"min_p": 0.97, "min_tokens_to_keep": 3}
FEW = {"repetition_penalty": 3.0, "repetition_context_size": 2}
MANY = {"presence_penalty": 9.0, "presence_context_size": 99}
ONE = {"frequency_penalty": 9.0, "frequency_context_size": 1}

PROMPT = [ord(letter) for letter in "what did I plan"]


@pytest.fixture
def base(tiny_folder):
    loaded = load_base(str(tiny_folder("llama")))
    loaded.tokenizer.eos_token_ids = set()
    return loaded


def generated(base, max_tokens=12, **sampling):
    mixture = Mixture(base.model, ExpertOptions())
    greedy = {"temperature": 0.0, "top_p": 1.0, "seed": 0}
    settings = Settings(max_tokens=max_tokens, **greedy | sampling)
    try:
        made = Generation(base, mixture, PROMPT, settings)
        with mixture.selected("base"):
            list(made)
            made.trace()
    finally:
        mixture.detach()
    return made


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"min_p": 1.1}, "min-p 1.1 must be from 0 to 1"),
        ({"min_p": math.nan}, "min-p nan must be from 0 to 1"),
        ({"top_k": -1}, "top-k -1 must be at least 0"),
        ({"xtc_probability": -0.1}, "xtc probability -0.1 must be from 0 to 1"),
        ({"xtc_threshold": 0.6}, "xtc threshold 0.6 must be from 0 to 0.5"),
        ({"repetition_penalty": 0.0}, "repetition penalty 0.0 must be above 0"),
        ({"presence_penalty": math.inf}, "presence penalty inf must be a finite"),
        ({"frequency_penalty": math.nan}, "frequency penalty nan must be a finite"),
        ({"min_tokens_to_keep": 0}, "min tokens to keep 0 must be at least 1"),
        ({"repetition_context_size": 0}, "repetition context size 0 must be at least"),
        ({"presence_context_size": -1}, "presence context size -1 must be at least 1"),
        ({"frequency_context_size": 0}, "frequency context size 0 must be at least 1"),
        ({"logit_bias": {3: math.inf}}, "logit bias 3: inf must be"),
        ({"stop": ("",)}, "stop must not hold an empty text"),
        ({"template_args": {"tokenize": True}}, "must not set tokenize"),
        ({"temperature": "0.7"}, "^temperature must be a number$"),
        ({"top_p": None, "max_tokens": True}, "top-p must be .*\nmax tokens must be"),
        ({"temperature": math.nan}, "temperature nan must be from 0 to 100"),
        ({"lean": 51.0}, "lean 51.0 must be from -50 to 50"),
    ],
)
def test_values_that_cannot_work(wrong, text):
    with pytest.raises(ConfigError, match=text):
        replace(Settings(), **wrong).check()


def test_a_page_offers_less():
    offered = {"most_temperature": 2, "most_tokens": 4096, "most_lean": 4.0}
    far = Settings(temperature=3.0, max_tokens=5000, lean=-4.5)
    assert list(far.problems(**offered)) == [
        "temperature 3.0 must be from 0 to 2",
        "max tokens 5000 must be at most 4,096",
        "lean -4.5 must be from -4 to 4",
    ]


def test_a_bias_of_a_token_that_is_not_there(base):
    with pytest.raises(ModelError, match="the logit bias has token id 999999"):
        generated(base, logit_bias={999_999: 1.0})


@pytest.mark.parametrize(
    ("ours", "sampler", "processors"),
    [
        ({"top_p": 0.8}, {"top_p": 0.8}, {}),
        ({"min_p": 0.3}, {"min_p": 0.3}, {}),
        ({"top_k": 3}, {"top_k": 3}, {}),
        ({"top_k": 10**6}, {}, {}),
        ({"repetition_penalty": 1.5}, {}, {"repetition_penalty": 1.5}),
        ({"presence_penalty": 2.0}, {}, {"presence_penalty": 2.0}),
        ({"frequency_penalty": 2.0}, {}, {"frequency_penalty": 2.0}),
        ({"logit_bias": {65: 4.0}}, {}, {"logit_bias": {65: 4.0}}),
        (KEPT, KEPT, {}),
        ({"min_p": 0.97, "min_tokens_to_keep": 10**6}, {}, {}),
        (FEW, {}, FEW),
        (MANY, {}, MANY),
        (ONE, {}, ONE),
    ],
)
def test_is_what_mlx_lm_draws(base, ours, sampler, processors):
    mx.random.seed(3)
    expected = stream_generate(
        base.model,
        base.tokenizer,
        PROMPT,
        max_tokens=12,
        sampler=make_sampler(1.0, **sampler),
        logits_processors=make_logits_processors(**processors),
    )
    expected = [response.token for response in expected]
    found = generated(base, temperature=1.0, seed=3, **ours)
    assert [piece.id for piece in found.tokens] == expected


def test_xtc_is_mlx_lm_s_and_spares_line_ends_and_end_tokens(base):
    xtc = {"xtc_probability": 0.5, "xtc_threshold": 0.004}
    line_end = base.tokenizer.encode("\n", add_special_tokens=False)
    sampler = make_sampler(1.0, **xtc, xtc_special_tokens=line_end)
    mx.random.seed(3)
    expected = stream_generate(
        base.model, base.tokenizer, PROMPT, max_tokens=12, sampler=sampler
    )
    expected = [response.token for response in expected]
    found = generated(base, temperature=1.0, seed=3, **xtc)
    assert [piece.id for piece in found.tokens] == expected
    plain = generated(base, temperature=1.0, seed=3)
    assert [piece.id for piece in plain.tokens] != expected


def test_a_reply_ends_before_a_stop_word(base):
    letters = {ord(letter): 100.0 for letter in "abcd"}
    options = {"temperature": 1.0, "seed": 5, "logit_bias": letters}
    whole = generated(base, 12, **options).text
    word = whole[4:7]
    made = generated(base, 12, stop=(word,), **options)
    assert made.text == whole[: whole.index(word)]
    assert made.tokens[-1].finish_reason == "stop"


def cut_plainly(parts, words):
    """The same over and over from the beginning: the text before the first word."""
    text = ""
    for part in parts:
        text += part
        if starts := [text.index(word) for word in words if word in text]:
            return text[: min(starts)]
    return text


def shown_of(parts, words):
    texts, found = StopTexts(words), ""
    for number, part in enumerate(parts, 1):
        more, met = texts.add(part, number == len(parts))
        found += more
        if met:
            break
    return found


@given(
    st.lists(st.text("ab\u00e9", max_size=3), max_size=12),
    st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_words_are_those_of_a_plain_search(parts, words):
    assert shown_of(parts, tuple(words)) == cut_plainly(parts, words)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("one END two", ("END",), "one "),
        ("one EN", ("END",), "one EN"),
        ("EEND", ("END",), "E"),
        ("a STOP b END", ("END", "STOP"), "a "),
        ("nothing", ("END",), "nothing"),
    ],
)
def test_stop_words_however_the_text_is_divided(text, words, shown, size):
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert shown_of(parts, words) == shown
