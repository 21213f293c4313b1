"""Conversations given away: whole, safe, and readable where they go."""

import html
import json
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.conversations.export import (
    _closed,
    _tinted,
    to_html,
    to_json,
    to_markdown,
)
from comigs_mlx.conversations.markdown import blocks, units
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation
from comigs_mlx.terminal.conversation import load

SAID = "Take **good shoes** 🌟 & `a map`.\n\n```sh\nwalk <b>\n```\n"
HOSTILE = '</title><script>alert(1)</script>{{TURNS}}" onload="x'


def talk(question="What for a walk?", said=SAID, **facts):
    """A conversation of one question, with a branch that is not shown."""
    tree = Conversation("a" * 32)
    hidden = tree.ask("never shown", None)
    tree.answer_to(hidden.id).text = "nor this"
    answer = tree.answer_to(tree.ask(question, None).id)
    answer.text, one = said, answer.answer
    one.title, one.run, one.base, one.count = "Together", "notes", "demo", 3
    one.experts, one.layers = ["generalist", "specialist"], ["model.layers.0"]
    for name, value in facts.items():
        setattr(one, name, value)
    tree.title = question
    return tree


def tokens(said=SAID, mine=0.9):
    """An answer as tokens, the specialist's share growing up to `mine`."""
    words = re.findall(r"\s*\S+|\s+$", said)
    each = [10_000 * mine * i / len(words) for i in range(1, len(words) + 1)]
    packed = [struct.pack("<2H", 10_000 - int(w), int(w)) for w in each]
    return [
        Said(i, word, packed=w)
        for i, (word, w) in enumerate(zip(words, packed, strict=True))
    ]


def shown(page):
    """The text of a page's body."""
    body = page[page.index("<main>") :]
    return html.unescape(re.sub(r"<[^>]*>", "", body))


def test_json_is_what_chat_loads(tmp_path):
    tree = talk(settings={"system": "Be brief.", "experts": "auto", "lean": 0.5})
    late = tree.ask("A question \ud83d that \x9b fails", tree.leaf)
    tree.answer_to(late.id).answer.problem = "Too long."
    file = tmp_path / "talk.json"
    file.write_text(to_json(tree), encoding="utf-8")
    found = load(file)
    assert found.system == "Be brief."
    assert found.messages == tree.messages()
    assert [m["content"] for m in found.messages] == ["What for a walk?", SAID]
    content = json.loads(file.read_text())
    assert (content["run"], content["model"]) == ("notes", "demo")
    assert (content["experts"], content["lean"]) == ("auto", 0.5)


def test_json_shows_a_terminal_nothing_that_it_obeys():
    assert "\\u009b" in to_json(talk("a \x9b b"))


def test_markdown_says_who_spoke_and_keeps_every_word():
    text = to_markdown(talk(remark="stopped", problem="No room."))
    assert text.startswith("# What for a walk?\n\n*2")
    assert "\n## You\n\nWhat for a walk?\n" in text
    assert f"\n## Together · notes\n\n{SAID.strip()}\n" in text
    assert "*No room.*\n\n*Stopped*" in text
    assert "never shown" not in text


def test_a_title_means_nothing_else_in_markdown():
    head = to_markdown(talk("*a* [b](c)\n<d> # e")).splitlines()[0]
    assert head == r"# \*a\* \[b\](c) \<d\> \# e"


def test_an_open_code_block_ends_with_its_turn():
    assert _closed("a\n```py\nb") == "a\n```py\nb\n```"
    assert _closed("a\n~~~~\n```\n~~~") == "a\n~~~~\n```\n~~~\n~~~~"
    assert _closed(SAID) == SAID
    assert _closed("a `` ``` b") == "a `` ``` b"


def test_a_page_needs_nothing_else_and_runs_nothing():
    page = to_html(talk(HOSTILE, HOSTILE, run=HOSTILE, remark=HOSTILE, problem=HOSTILE))
    assert "default-src 'none'" in page
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", page))
    assert tags.isdisjoint({"script", "img", "iframe", "link", "object", "form"})
    assert not re.search(r"<[^>]* on\w+=", page)
    assert "url(" not in page
    assert shown(page).count(HOSTILE) >= 4


def test_a_page_shows_the_path_as_markdown_and_the_numbers():
    page = to_html(talk(share=0.54, seconds=2.0, remark="stopped"))
    assert "<strong>good shoes</strong>" in page
    assert "54 % me · 3 tokens · 1 tokens/s" in page
    assert "<p>Stopped</p>" in page
    assert "never shown" not in page
    assert '<span class="' not in page


@pytest.mark.parametrize(
    ("said", "levels"),
    [("## a\n### b\n## c\n", "343"), ("# a\n### b\n", "35"), ("#### <h3>\n", "3")],
)
def test_headings_of_an_answer_begin_below_their_speaker(said, levels):
    page = to_html(talk(said=said))
    assert "".join(re.findall(r"<h([3-6])", page[page.index("<main>") :])) == levels
    assert page.count("</h3>") == levels.count("3")


def test_tints_are_where_tokens_are_and_only_where_the_router_has_learnt():
    tree = talk()
    page = to_html(tree, {tree.leaf: tokens()})
    assert '<span class="theirs" style="--tint:' in page
    assert '<span class="mine" style="--tint:' in page
    assert "spoke where it is blue" in page
    assert shown(page) == shown(to_html(tree))
    alike = [
        Said(t.id, t.text, packed=struct.pack("<2H", 5000, 5000)) for t in tokens()
    ]
    assert to_html(tree, {tree.leaf: alike}) == to_html(tree)
    assert to_html(tree, {tree.leaf: []}) == to_html(tree)


TEXTS = st.text(st.sampled_from("ab &<>\"'*`_#|-\n🌟é1.[]()"), max_size=60)
STEPS = st.lists(st.tuples(st.integers(1, 9), st.integers(-100, 100)), max_size=9)


@given(TEXTS, STEPS)
def test_marks_change_no_character_of_what_is_shown(text, steps):
    for block in blocks(text):
        marks, at, words = [], 0, block.text
        for i, (size, tint) in enumerate(steps):
            word, words = words[:size], words[size:]
            if word:
                marks.append([at, at + units(word), i, tint])
                at += units(word)
        made = _tinted(block.html, marks)
        bare = re.sub(r'<span class="\w+" style="--tint:\d+">|</span>', "", made)
        assert bare == block.html
        coloured = re.findall(r'<span class="\w+" style="--tint:\d+">([^<]*)<', made)
        told = sum(units(html.unescape(one)) for one in coloured)
        assert told == sum(m[1] - m[0] for m in marks if m[3])
