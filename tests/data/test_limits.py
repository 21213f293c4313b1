"""Positions and tokens are compared with their tables before a model sees them."""

import numpy as np
import pytest

from comigs_mlx.data.limits import ENDLESS, UNKNOWN, Limits
from comigs_mlx.errors import ConfigError, DataError

SMALL = Limits("some/model", context=128, vocabulary=256)


@pytest.mark.parametrize("seq_len", [1, 127, 128])
def test_a_window_that_fits(seq_len):
    SMALL.check_window(seq_len)
    UNKNOWN.check_window(10**9)


def test_a_window_that_does_not():
    with pytest.raises(ConfigError) as caught:
        SMALL.check_window(129)
    assert str(caught.value) == (
        "--seq-len 129: some/model reads at most 128 tokens at once: set --seq-len to "
        "at most 128"
    )


@pytest.mark.parametrize("tokens", [[], [0], [255, 0], np.array([3, 255], np.int32)])
def test_tokens_that_are_known(tokens):
    SMALL.check_tokens(tokens)
    UNKNOWN.check_tokens([10**9])


@pytest.mark.parametrize("wrong", [256, 300, -1])
def test_tokens_that_are_not(wrong):
    with pytest.raises(DataError) as caught:
        SMALL.check_tokens(np.array([3, wrong, 0]))
    assert str(caught.value) == (
        f"the tokenizer of some/model gives token {wrong}, but the model knows only 0 "
        "to 255: take the tokenizer that the model was made with, or resize its "
        "embedding"
    )


@pytest.mark.parametrize(("length", "room"), [(0, 128), (1, 127), (127, 1)])
def test_room_after_a_prompt(length, room):
    assert SMALL.room([7] * length) == room
    assert UNKNOWN.room([7] * length) == ENDLESS


@pytest.mark.parametrize("length", [128, 1000])
def test_a_prompt_that_leaves_none(length):
    with pytest.raises(ConfigError) as caught:
        SMALL.room([7] * length, "text", "give a part of it")
    assert str(caught.value) == (
        f"the text is {length:,} tokens long, some/model reads at most 128: give a "
        "part of it"
    )


def test_a_prompt_of_unknown_tokens():
    with pytest.raises(DataError, match="gives token 256"):
        SMALL.room([256])
