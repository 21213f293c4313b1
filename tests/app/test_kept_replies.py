"""Tokens and answers: the same after being packed, kept and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kept_replies import STEP, Reply, Said, reply_from_json
from comigs_mlx.inference.replies import Alternative, SpokenToken

WEIGHTS = st.lists(
    st.lists(st.floats(0, 1), min_size=2, max_size=2), min_size=0, max_size=4
)


@given(st.text(), WEIGHTS, st.text(), st.floats(0, 1))
def test_a_token_is_kept_whole(text, weights, other, probability):
    spoken = SpokenToken(
        3, text, weights, [Alternative(1, other, probability)], "stop", own="<0xF0>"
    )
    said = Said.of(spoken)
    assert Said.from_json(said.as_json()) == said
    kept = said.weights(2)
    assert len(kept) == len(weights)
    for row, given_row in zip(kept, weights, strict=True):
        assert row == pytest.approx(given_row, abs=0.5 / STEP + 1e-12)
    event = said.event()
    assert event["text"] == text
    assert event["alt"] == [[other, round(probability, 4)]]
    assert len(event["w"]) == 2 * len(weights)


def test_a_token_is_small_in_memory():
    spoken = SpokenToken(3, "x", [[0.5, 0.5]] * 30, [], None)
    assert len(Said.of(spoken).packed) == 2 * 60


def reply(**values):
    tokens = [Said(1, "a", packed=b"\x10\x27\x00\x00"), Said(2, "b", finish="length")]
    names = {"experts": ["generalist", "specialist"], "layers": ["model.layers.0.mlp"]}
    return Reply("Mixture · notes", "demo", **names, tokens=tokens, **values)


def test_an_answer_is_kept_whole():
    whole = reply(stopped=True, left_out=2, chat=False)
    whole.end()
    assert reply_from_json(whole.as_json()) == whole
    assert "its 2 oldest messages were left out" in whole.remark
    assert "no chat template" in whole.remark


def test_a_thin_answer_keeps_its_words():
    whole = reply()
    whole.end()
    whole.thin()
    assert (whole.text, len(whole.tokens)) == ("ab", 1)
    assert whole.tokens[0].packed == b""
    assert "no longer kept" in whole.remark


@pytest.mark.parametrize(
    "change",
    [
        {"title": 3},
        {"experts": [1]},
        {"problem": 0},
        {"left_out": "many"},
        {"tokens": [[1, 2, "", "", "[]", None]]},
        {"tokens": [[1, "a", "", "AAA=", "[]", "because"]]},
        {"tokens": [[1, "a", "", "AAAA", "[]", None]]},
        {"tokens": [[1, "a", "", "", "{", None]]},
        {"tokens": [[1, "a"]]},
    ],
)
def test_values_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        reply_from_json({**reply().as_json(), **change})
