"""Which tokens end before a character, whatever a tokenizer says of its offsets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.spans import OffsetPlaces, PrefixPlaces, common

WORDS = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=6)


@settings(deadline=None)
@given(WORDS, st.booleans(), st.data())
def test_tokens_before_a_character(
    words: list[str], trimmed: bool, data: st.DataObject
) -> None:
    """The words are the tokens; spaces around them may be missing in the offsets."""
    text, offsets, ends, at = "".join(words), [], [], 0
    for word in words:
        start, end = at, at + len(word)
        if trimmed:
            start += len(word) - len(word.lstrip())
            end = max(start, end - (len(word) - len(word.rstrip())))
        offsets.append((start, end))
        at += len(word)
        ends.append(at)
    border = data.draw(st.sampled_from([0, *ends]))
    count, exact = OffsetPlaces(offsets).before(border)
    if text[border - 1 : border] != " ":  # nobody knows whose a space left out is
        assert exact
    spaces = text[ends[count - 1] if count else 0 : border]
    assert spaces.strip() == ""  # what lies between is no token's certain own
    if not trimmed:
        assert count == [0, *ends].index(border)
        inside = data.draw(st.integers(0, len(text)))
        count, exact = OffsetPlaces(offsets).before(inside)
        assert exact == (inside in [0, *ends])
        assert count == sum(end <= inside for end in ends)


def test_spaces_that_offsets_leave_out_belong_to_the_token_after_them() -> None:
    # "a  b" as the tokens "a", " ", " b", of which the last two hide their spaces.
    places = OffsetPlaces([(0, 1), (2, 2), (3, 4)])
    assert [places.before(at) for at in range(5)] == [
        (0, True), (1, True), (2, True), (2, False), (3, True)
    ]  # fmt: skip
    # The byte tokens of one character have one offset.
    places = OffsetPlaces([(0, 1), (1, 2), (1, 2), (2, 3)])
    assert [places.before(at) for at in range(4)] == [
        (0, True), (1, True), (3, True), (4, True)
    ]  # fmt: skip


def test_without_offsets_the_tokens_that_stay_are_before_a_character() -> None:
    def pairs(text: str) -> list[int]:
        """Two characters a token, as far as there are two."""
        parts = [text[i : i + 2] for i in range(0, len(text), 2)]
        return [hash(part) for part in parts]

    places = PrefixPlaces("abcde", pairs("abcde"), pairs)
    assert [places.before(at) for at in range(6)] == [
        (0, True), (0, False), (1, True), (1, False), (2, True), (3, True)
    ]  # fmt: skip


@pytest.mark.parametrize("make", [list, "".join])
@given(st.lists(st.sampled_from("ab"), max_size=9), st.lists(st.sampled_from("ab")))
def test_common_beginnings(make: object, one: list[str], other: list[str]) -> None:
    assert callable(make)
    count = common(make(one), make(other))
    assert one[:count] == other[:count]
    assert one[count : count + 1] != other[count : count + 1] or count == len(one)
