"""Marks: tokens without text join a neighbour, tints are absolute, ends fit."""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.conversations.markdown import blocks, units
from comigs_mlx.conversations.marks import (
    DEAD_ZONE,
    Growing,
    Piece,
    lean,
    leans,
    over,
    pieces,
    routed,
    share,
    tint,
)

EXPERTS = ["generalist", "specialist"]


@dataclass
class Token:
    text: str
    packed: bytes = b""


def said(text, *shares):
    """A token with the specialist's share in each layer."""
    rows = [w for mine in shares for w in (10_000 - mine, mine)]
    return Token(text, struct.pack(f"<{len(rows)}H", *rows))


def texts(tokens):
    source = "".join(token.text for token in tokens)
    return [source[one.start : one.end] for one in pieces(tokens)]


def test_a_part_of_a_character_joins_the_next_and_a_blank_the_one_before():
    tokens = [Token(t) for t in ("", "é", " b", "\n", "\n", "c", "", "")]
    assert texts(tokens) == ["é", " b\n\n", "c"]
    assert pieces(tokens) == [
        Piece(0, 1, 0, 1),
        Piece(1, 5, 2, 4),
        Piece(5, 6, 5, 7),
    ]


def test_blanks_at_the_beginning_join_what_follows():
    assert texts([Token("\n"), Token(" a")]) == ["\n a"]
    assert texts([Token("\n"), Token("")]) == ["\n"]
    assert texts([Token("")]) == texts([]) == []


def test_a_blank_says_nothing_of_who_spoke():
    tokens = [said("a", 10_000), said("\n", 0), said("", 0), said("é", 5_000)]
    assert leans(tokens, pieces(tokens), EXPERTS) == [1.0, -0.5]


WORDS = st.sampled_from(["a", " b", "", "\n", " ", "é", "cd"])


@given(st.lists(st.tuples(WORDS, st.integers(0, 10_000)), max_size=30), st.data())
@settings(deadline=None)
def test_an_answer_that_grows_has_the_pieces_and_leans_of_its_tokens(told, data):
    tokens = [said(text, mine, 5_000) for text, mine in told]
    growing, at = Growing(EXPERTS), 0
    while at < len(tokens):  # as a page asks: after some tokens each time
        at += data.draw(st.integers(1, 4))
        heard = tokens[:at]
        found, leaning = growing.follow(heard)
        assert found == pieces(heard)
        assert leaning == leans(heard, pieces(heard), EXPERTS)


def test_no_lean_of_an_answer_that_grows_is_found_twice(monkeypatch):
    from comigs_mlx.conversations import marks

    asked, one = [], marks.lean
    monkeypatch.setattr(marks, "lean", lambda *given: asked.append(1) or one(*given))
    growing, tokens = Growing(EXPERTS), [said("a", i) for i in range(50)]
    for at in range(1, 51):
        growing.follow(tokens[:at])
    assert len(asked) == 50


def test_the_lean_is_the_mean_of_all_layers_or_one():
    token = said("a", 10_000, 5_000)
    assert lean(token, EXPERTS) == pytest.approx(0.5)
    assert lean(token, EXPERTS, 1) == 0
    assert lean(Token("a"), EXPERTS) == 0


def test_what_is_left_to_the_base_model_counts_for_neither():
    token = Token("a", struct.pack("<2H", 1_000, 1_000))
    assert lean(token, EXPERTS) == 0
    assert share([token], EXPERTS) == pytest.approx(50)


def test_several_specialists_are_one_person():
    token = Token("a", struct.pack("<3H", 4_000, 3_000, 3_000))
    assert lean(token, ["generalist", "specialist", "specialist-1"]) == pytest.approx(
        0.2
    )


def test_a_tint_is_absolute_and_has_a_dead_zone():
    assert tint(DEAD_ZONE - 0.001) == tint(-DEAD_ZONE + 0.001) == 0
    assert tint(0.1) == 0.1
    assert tint(-1) == -1


def test_a_router_whose_weights_are_even_has_not_learnt():
    assert not routed([said("a", 5_050, 4_900)] * 9, EXPERTS)
    assert routed([said("a", 9_000, 1_000)] * 9, EXPERTS)
    assert not routed([Token("a")], EXPERTS)
    assert not routed([], EXPERTS)


def test_one_expert_chosen_alone_has_an_even_weight_at_first():
    first = [Token("a", struct.pack("<4H", 5_100, 0, 0, 5_050))]
    later = [Token("a", struct.pack("<4H", 6_100, 0, 0, 8_050))]
    assert not routed(first, EXPERTS)
    assert routed(later, EXPERTS)


def test_weights_of_other_experts_count_as_none():
    token = Token("a", struct.pack("<3H", 1, 2, 3))
    assert lean(token, EXPERTS) == lean(token, []) == 0
    assert not routed([token], EXPERTS)


def test_the_share_of_the_specialists():
    assert share([said("a", 6_000), said("b", 2_000)], EXPERTS) == pytest.approx(40)
    assert share([Token("a")], EXPERTS) is None


def test_marks_lie_over_rendered_text():
    tokens = [said("So **ho", 9_000), said("t** ", 1_000), said("😀 x", 5_000)]
    found = pieces(tokens)
    rendered = blocks("".join(token.text for token in tokens))
    marks = over(rendered, found, leans(tokens, found, EXPERTS))
    assert rendered[0].text == "So hot 😀 x"
    assert marks == [[[0, 5, 0, 80], [5, 7, 1, -80], [7, 11, 2, 0]]]


PARTS = st.sampled_from(
    ["", "a", " b", "\n", "\n\n", "**", "`", "- ", "😀", "| a", "&amp;", "é ", "\r\n"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, max_size=30))
def test_every_shown_character_of_the_source_has_the_piece_it_came_from(parts):
    tokens = [said(part, 8_000) for part in parts]
    found = pieces(tokens)
    rendered = blocks("".join(parts))
    marks = over(rendered, found, leans(tokens, found, EXPERTS))
    for block, laid in zip(rendered, marks, strict=True):
        owner = {}
        before = 0
        for start, end, index, shade in laid:
            assert before <= start < end <= units(block.text)
            assert shade == 60
            owner.update(dict.fromkeys(range(start, end), index))
            before = end
        for start, end, at in block.spans:
            for i in range(start, end):
                place = at + len(
                    block.text.encode("utf-16-le")[2 * start : 2 * i].decode(
                        "utf-16-le", "ignore"
                    )
                )
                one = found[owner[i]]
                assert one.start <= place < one.end
