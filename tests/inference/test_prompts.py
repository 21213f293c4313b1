"""Conversations to tokens."""

import pytest
from mlx_lm.utils import load_tokenizer

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.prompts import chat_tokens, prompt_tokens, segments

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who?"},
]


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder())


@pytest.fixture
def plain(tokenizer):
    """Of a base model: no chat template."""
    tokenizer.has_chat_template = False
    return tokenizer


def test_a_conversation_ends_where_the_assistant_begins(tokenizer):
    tokens = chat_tokens(tokenizer, TURNS, "Be kind.")
    assert tokenizer.decode(tokens) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_one_question_is_a_conversation_of_one_turn(tokenizer):
    assert prompt_tokens(tokenizer, "Hi", "x") == chat_tokens(tokenizer, TURNS[:1], "x")


def test_turns_are_left_as_they_were(tokenizer):
    before = [dict(turn) for turn in TURNS]
    chat_tokens(tokenizer, TURNS, "Be kind.")
    assert before == TURNS


def test_without_a_template_the_text_is_continued(plain):
    assert plain.decode(chat_tokens(plain, TURNS)) == "Hi\n\nHello\n\nWho?"
    with pytest.raises(ConfigError, match="a system prompt needs the model's chat"):
        chat_tokens(plain, TURNS, "Be kind.")


def test_a_template_that_refuses(tokenizer):
    tokenizer._tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError) as error:
        chat_tokens(tokenizer, TURNS)
    assert "refuses this conversation (roles must alternate): clear it" in str(
        error.value
    )


def test_segments_are_the_text_whatever_is_divided(tokenizer):
    text = "naïve 🐦 end é"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    found = list(segments(tokenizer, tokens))
    assert len(found) == len(tokens)
    assert "".join(found) == text
