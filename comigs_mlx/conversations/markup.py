"""A Markdown parser that knows where in the source each character came from.

The blocks (lists, quotes, tables, code) and the pairing of emphasis are those of
markdown-it-py. The rules inside a line are ours, for three reasons: each piece of text
keeps the place that it came from, a link leads to nothing but http, https and mailto,
and no text takes more than linear time. Beyond CommonMark: tables, strikethrough and
bare web addresses. Left out, because they change what was shown before while an answer
is still coming: headings that are underlined, and links whose address follows later.
HTML is text.
"""

from __future__ import annotations

import functools
import html.entities
import re
from bisect import bisect_left
from collections.abc import Callable
from html import unescape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import (
    StateBlock,
    blockquote,
    heading,
    list_block,
    table,
)
from markdown_it.rules_inline import StateInline, emphasis, strikethrough
from markdown_it.rules_inline.state_inline import Delimiter
from markdown_it.token import Token

DEEPEST = 16
"""Levels of quotes and lists (two a list); what is deeper is shown as it was written.

Each level has the lines inside read once more, so that depth costs time.
"""

BLOCKS = ("table", "code", "fence", "blockquote", "hr", "list", "heading", "paragraph")
SPECIAL = re.compile(r"[\n\\`*_~\[!&<]|(?<![A-Za-z0-9])https?://")
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
ENTITY = re.compile(r"&(#[xX][0-9a-fA-F]{1,6}|#[0-9]{1,7}|[a-zA-Z][a-zA-Z0-9]{1,31});")
ADDRESS = re.compile(r"https?://[^\s<>\"'`|\\^{}\[\]*]{1,2000}")
ANGLED = re.compile(r"<((?:https?://|mailto:)[^\s<>]{1,2000})>")
TARGET = re.compile(
    r"\([ \t]{0,20}(?:<([^<>\n]{0,1000})>|([^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)"
    r"[^\s()<>]{0,500}){0,3}))"
    r"(?:[ \t]{1,20}(?:\"[^\"\n]{0,500}\"|'[^'\n]{0,500}'))?[ \t]{0,20}\)"
)
BEGUN = re.compile(r"\([^\s()]{0,2000}\Z")
ALLOWED = re.compile(r"(?:https?://|mailto:)[^\x00-\x20\x7f]+", re.IGNORECASE)
BRACKETS = re.compile(r"\\.|`+|[\[\]]", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TICKS = re.compile(r"`+")

Rule = Callable[[StateInline, bool], bool]


@functools.cache
def parser() -> MarkdownIt:
    """The parser; it keeps nothing between two texts."""
    md = MarkdownIt("zero", {"maxNesting": 200})
    md.block.ruler.enableOnly(list(BLOCKS))
    others = ["paragraph", "reference", "blockquote", "list"]
    md.block.ruler.at("blockquote", _shallow(blockquote), {"alt": others})
    md.block.ruler.at("list", _shallow(list_block), {"alt": others[:3]})
    md.block.ruler.at("table", _located(table), {"alt": others[:2]})
    md.block.ruler.at("heading", _located(heading), {"alt": others[:3]})
    md.inline.ruler.enableOnly([])
    for name, rule in RULES:
        md.inline.ruler.push(name, rule)
    md.inline.ruler2.after("balance_pairs", "cm_unclosed", _close_the_unclosed)
    pairs = ["balance_pairs", "cm_unclosed", "strikethrough", "emphasis"]
    md.inline.ruler2.enableOnly(pairs)
    return md


def block_tokens(text: str) -> list[Token]:
    """The blocks of a text whose lines end in a line feed alone.

    Returns:
        Tokens as markdown-it-py describes them. Those that open a heading or the row of
        a table have `meta["at"]`, the place of its first character.
    """
    md = parser()
    tokens: list[Token] = []
    md.block.parse(text, md, {}, tokens)
    return tokens


def inline_tokens(content: str, growing: bool = False) -> list[Token]:
    """The pieces of one paragraph, heading or cell.

    Args:
        content: The source of all that is in it.
        growing: Whether more is coming, so that emphasis, code and addresses may be
            closed yet: they are shown as if they were.

    Returns:
        Tokens of the types `text`, `code_inline`, `br`, and `..._open`, `..._close` of
        `em`, `strong`, `s` and `link`. Those with content have `meta["at"]`, the place
        in `content` of its first character; `meta["whole"]` is there where all of it
        came from that one place.
    """
    md = parser()
    tokens: list[Token] = []
    md.inline.parse(content, md, {"growing": growing}, tokens)
    return tokens


def _shallow(rule: Callable[..., bool]) -> Callable[..., bool]:
    """A rule that leaves what is too deep to be text."""

    def limited(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        return state.level < DEEPEST and rule(state, start, end, silent)

    return limited


def _located(rule: Callable[..., bool]) -> Callable[..., bool]:
    """A rule whose lines know where they begin, after the marks of what is around."""

    def located(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        first = len(state.tokens)
        done = rule(state, start, end, silent)
        for token in state.tokens[first:]:
            if token.map and token.type in ("heading_open", "tr_open"):
                line = token.map[0]
                token.meta = {"at": state.bMarks[line] + state.tShift[line]}
        return done

    return located


def _push(state: StateInline, content: str, at: int, **meta: Any) -> None:
    token = state.push("text", "", 0)
    token.content, token.meta = content, {"at": at, **meta}


def _text(state: StateInline, silent: bool) -> bool:
    """Everything up to the next character that may mean something."""
    found = SPECIAL.search(state.src, state.pos, state.posMax)
    end = state.posMax if found is None else found.start()
    if end == state.pos:
        return False
    _push(state, state.src[state.pos : end], state.pos)
    state.pos = end
    return True


def _newline(state: StateInline, silent: bool) -> bool:
    """Every line break is kept: people and models mean them."""
    if state.src[state.pos] != "\n":
        return False
    if state.tokens and state.tokens[-1].type == "text":
        state.tokens[-1].content = state.tokens[-1].content.rstrip(" ")
    _break(state, state.pos + 1)
    return True


def _break(state: StateInline, after: int) -> None:
    state.push("br", "br", 0)
    while after < state.posMax and state.src[after] in " \t":
        after += 1
    state.pos = after


def _escape(state: StateInline, silent: bool) -> bool:
    if state.src.startswith("\\\n", state.pos) and state.pos + 2 <= state.posMax:
        _break(state, state.pos + 2)
        return True
    found = ESCAPED.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    _push(state, found[1], state.pos + 1)
    state.pos += 2
    return True


def _code(state: StateInline, silent: bool) -> bool:
    found = TICKS.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    start, size = found.end(), len(found[0])
    end = _closing(state, start, size)
    if end < 0 and state.env["growing"] and start < len(state.src) == state.posMax:
        end = state.posMax
    if end < 0 or end > state.posMax:
        _push(state, found[0], state.pos)
        state.pos = start
        return True
    state.pos = min(end + size, state.posMax)
    content = state.src[start:end].replace("\n", " ")
    if content.strip(" ") and content[0] == content[-1] == " ":
        content, start = content[1:-1], start + 1
    token = state.push("code_inline", "code", 0)
    token.content, token.meta = content, {"at": start}
    return True


def _closing(state: StateInline, start: int, size: int) -> int:
    """Where the next run of exactly `size` backticks is; -1 for nowhere."""
    if "ticks" not in state.env:
        runs: dict[int, list[int]] = {}
        for found in TICKS.finditer(state.src):
            runs.setdefault(len(found[0]), []).append(found.start())
        state.env["ticks"] = runs
    places: list[int] = state.env["ticks"].get(size, [])
    index = bisect_left(places, start)
    return places[index] if index < len(places) else -1


def _marked(rule: Rule) -> Rule:
    """A rule that pushes markers, each of which then knows its place."""

    def placed(state: StateInline, silent: bool) -> bool:
        first, at = len(state.tokens), state.pos
        done = rule(state, silent)
        for token in state.tokens[first:]:
            token.meta = {"at": at}
            at += len(token.content)
        return done

    return placed


def _close_the_unclosed(state: StateInline) -> None:
    """Pair emphasis that is open at the end with markers of no text.

    What is open inside a pair that is closed stays as it was written.
    """
    if not state.env["growing"]:
        return
    marks, furthest = state.delimiters, -1
    waiting: list[Delimiter] = []
    for index, mark in enumerate(marks):
        furthest = max(furthest, mark.end)
        if mark.open and mark.end < 0 and index > furthest:
            waiting.append(mark)
    for mark in reversed(waiting):
        mark.end = len(marks)
        state.push("text", "", 0).meta = {"at": len(state.src)}
        token = len(state.tokens) - 1
        marks.append(Delimiter(mark.marker, mark.length, token, -1, False, True))


def _link(state: StateInline, silent: bool) -> bool:
    """`[text](address)`; a picture `![text](address)` becomes a link to it.

    A picture inside a link is its text. A link inside a link stays as it was written.
    """
    picture = state.src.startswith("![", state.pos)
    start = state.pos + picture
    if state.src[start] != "[" or (state.linkLevel and not picture):
        return False
    end = _pairs(state).get(start, -1)
    found = TARGET.match(state.src, end + 1, state.posMax) if end >= 0 else None
    href = "" if found is None else _address(found[1] or found[2] or "")
    if found is None and state.env["growing"] and end >= 0:
        found = BEGUN.match(state.src, end + 1, state.posMax)
    elif not href:
        return False
    if found is None:
        return False
    _inside(state, start + 1, end, "" if state.linkLevel else href)
    state.pos = found.end()
    return True


def _inside(state: StateInline, start: int, end: int, href: str) -> None:
    """Put the text of a link, whose markup is read, into the tokens."""
    outer = state.posMax
    state.pos, state.posMax = start, end
    if href:
        state.push("link_open", "a", 1).attrs = {"href": href}
    state.linkLevel += 1
    if start == end and href:
        _push(state, href, start, whole=True)
    state.md.inline.tokenize(state)
    state.linkLevel -= 1
    if href:
        state.push("link_close", "a", -1)
    state.posMax = outer


def _pairs(state: StateInline) -> dict[int, int]:
    """Places of the opening brackets that are closed -> of the closing ones."""
    if "pairs" in state.env:
        known: dict[int, int] = state.env["pairs"]
        return known
    pairs: dict[int, int] = {}
    opened: list[int] = []
    at = 0
    while found := BRACKETS.search(state.src, at):
        at = found.end()
        if found[0] == "[":
            opened.append(found.start())
        elif found[0] == "]" and opened:
            pairs[opened.pop()] = found.start()
        elif found[0][0] == "`":
            end = _closing(state, at, len(found[0]))
            at = at if end < 0 else end + len(found[0])
    state.env["pairs"] = pairs
    return pairs


def _address(target: str) -> str:
    """An address as it goes into the page; empty where it must not."""
    try:
        href = parser().normalizeLink(unescape(ESCAPED.sub(r"\1", target)))
    except (ValueError, UnicodeError):
        return ""
    return href if ALLOWED.fullmatch(href) else ""


def _angled(state: StateInline, silent: bool) -> bool:
    found = ANGLED.match(state.src, state.pos, state.posMax)
    return found is not None and _bare(state, found[1], found.start(1), found.end())


def _web(state: StateInline, silent: bool) -> bool:
    found = ADDRESS.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    text = found[0].rstrip(".,;:!?_~&")
    while text.endswith(")") and text.count(")") > text.count("("):
        text = text[:-1].rstrip(".,;:!?_~&")
    return _bare(state, text, state.pos, state.pos + len(text))


def _bare(state: StateInline, text: str, at: int, end: int) -> bool:
    """Make an address that is its own text a link."""
    href = _address(text)
    if not href:
        return False
    if not state.linkLevel:
        state.push("link_open", "a", 1).attrs = {"href": href}
    _push(state, text, at)
    if not state.linkLevel:
        state.push("link_close", "a", -1)
    state.pos = end
    return True


def _entity(state: StateInline, silent: bool) -> bool:
    found = ENTITY.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    name = found[1]
    known = name[0] == "#" or f"{name};" in html.entities.html5
    character = unescape(found[0]) if known else ""
    if not character or CONTROL.search(character):
        return False
    _push(state, character, state.pos, whole=True)
    state.pos = found.end()
    return True


def _literal(state: StateInline, silent: bool) -> bool:
    """What no other rule takes means itself."""
    found = TICKS.match(state.src, state.pos, state.posMax)
    size = 1 if found is None else len(found[0])
    _push(state, state.src[state.pos : state.pos + size], state.pos)
    state.pos += size
    return True


RULES: tuple[tuple[str, Rule], ...] = (
    ("cm_text", _text),
    ("cm_newline", _newline),
    ("cm_escape", _escape),
    ("cm_code", _code),
    ("cm_strikethrough", _marked(strikethrough.tokenize)),
    ("cm_emphasis", _marked(emphasis.tokenize)),
    ("cm_link", _link),
    ("cm_angled", _angled),
    ("cm_web", _web),
    ("cm_entity", _entity),
    ("cm_literal", _literal),
)
