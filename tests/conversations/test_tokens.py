"""Tokens: the same after being packed, kept and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.conversations.tokens import STEP, Said, said_text
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
    assert said_text([said, said]) == text * 2
    assert said.alternatives == [[other, round(probability, 4)]]


def test_a_token_is_small_in_memory():
    spoken = SpokenToken(3, "x", [[0.5, 0.5]] * 30, [], None)
    assert len(Said.of(spoken).packed) == 2 * 60


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, "", "", "[]", None],
        [True, "a", "", "", "[]", None],
        [1, "a", "", "AAA=", "[]", "because"],
        [1, "a", "", "AAAA", "[]", None],
        [1, "a", "", "", "{", None],
        [1, "a", "", "", '[["<b>", "x"]]', None],
        [1, "a", "", "", "{}", None],
        [1, "a"],
    ],
)
def test_values_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match=r"\w"):
        Said.from_json(values)
