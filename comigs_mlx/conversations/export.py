"""The path of a conversation that is shown, as a file to give away or to go on with.

to_markdown(talk)       for people and their editors
to_html(talk, tokens)   one page that needs nothing else, with who spoke in colour
to_json(talk)           mlx-lm's messages, as `comigs chat --load` reads them
"""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files

from comigs_mlx.conversations import marks
from comigs_mlx.conversations.answers import Answer
from comigs_mlx.conversations.markdown import blocks, units
from comigs_mlx.conversations.marks import Mark
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation, Turn

FORMAT = 1
"""The format of `comigs chat --save`."""

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")
CONTROLS = re.compile("[\x7f-\x9f]")
HEADING = re.compile(r"<h([3-6])\b")
HEADING_TAG = re.compile(r"(</?h)([3-6])\b")
HIGHEST = 3
PARTS = re.compile(r"<[^>]*>|[^<]+")


def to_json(conversation: Conversation) -> str:
    """The messages, the system prompt of the last answer first.

    What follows the messages tells who answered last, and is not read again.
    """
    found = _last(conversation)
    system = str(found.settings.get("system") or "").strip()
    first = [{"role": "system", "content": system}] if system else []
    content = {
        "format_version": FORMAT,
        "messages": [*first, *conversation.messages()],
        "run": found.run or None,
        "model": found.base,
        "experts": found.settings.get("experts"),
        "lean": found.settings.get("lean"),
    }
    text = json.dumps(content, ensure_ascii=False, indent=2)
    # A terminal that shows the file obeys nothing in it.
    return CONTROLS.sub(lambda at: f"\\u{ord(at[0]):04x}", _whole(text)) + "\n"


def to_markdown(conversation: Conversation) -> str:
    """The conversation as Markdown, each turn under a heading of who speaks."""
    parts = [f"# {_plain(conversation.title)}"]
    if facts := _facts(conversation):
        parts.append(f"*{_plain(facts)}*")
    for turn in conversation.path():
        parts += [f"## {_plain(_speaker(turn))}", _closed(turn.text.strip("\n"))]
        if turn.answer is not None:
            told = (turn.answer.problem, turn.answer.remark)
            parts += [f"*{_plain(_sentence(one))}*" for one in told if one]
    return _whole("\n\n".join(part for part in parts if part) + "\n")


def to_html(
    conversation: Conversation, tokens: Mapping[int, Sequence[Said]] | None = None
) -> str:
    """The conversation as one HTML page, safe whatever was said.

    Args:
        conversation: The conversation whose path is shown.
        tokens: The kept tokens of answers by their ids: those are tinted.
    """
    kept = tokens or {}
    turns = [_article(turn, kept.get(turn.id, ())) for turn in conversation.path()]
    tinted = any('<span class="' in turn for turn in turns)
    title, facts = (_text(t) for t in (conversation.title, _facts(conversation)))
    parts = {
        "TITLE": title,
        "FACTS": f"<p>{facts}</p>" if facts else "",
        "LEGEND": LEGEND if tinted else "",
        "TURNS": "\n".join(turns),
    }
    page = files(__package__).joinpath("export.html").read_text(encoding="utf-8")
    # One pass: a text that looks like a placeholder stays a text.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


LEGEND = (
    '<p class="legend"><span class="theirs" style="--tint:60">everyone</span> spoke '
    'where it is blue, <span class="mine" style="--tint:60">me</span> where it is '
    "orange; without a colour, both alike.</p>"
)


def _last(conversation: Conversation) -> Answer:
    """The last answer for which a model was there."""
    answers = (turn.answer for turn in reversed(conversation.path()))
    return next((one for one in answers if one is not None and one.base), Answer())


def _facts(conversation: Conversation) -> str:
    """The day of the conversation, and who was talked to."""
    day = time.strftime("%Y-%m-%d", time.localtime(conversation.created))
    last = _last(conversation)
    return " · ".join(part for part in (day, last.run, last.base) if part)


def _speaker(turn: Turn) -> str:
    if turn.answer is None:
        return "You"
    named = (turn.answer.title or "Answer", turn.answer.run)
    return " · ".join(part for part in named if part)


def _plain(text: str) -> str:
    """A line of text as Markdown that means nothing else."""
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _closed(text: str) -> str:
    """A text whose last code block ends with it: else the next turn were code."""
    fence = ""
    for line in text.splitlines():
        found = FENCE.match(line)
        if found is None:
            continue
        marks, rest = found[1], found[2].strip()
        if not fence:
            fence = marks
        elif marks[0] == fence[0] and len(marks) >= len(fence) and not rest:
            fence = ""
    return f"{text}\n{fence}" if fence else text


def _whole(text: str) -> str:
    """A text without half characters, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(text: str) -> str:
    return html.escape(_whole(text))


def _article(turn: Turn, tokens: Sequence[Said]) -> str:
    """One turn of the page."""
    if turn.answer is None:
        said = f'<div class="said" dir="auto">{_text(turn.text)}</div>'
        return f'<article class="you"><h2>You</h2>{said}</article>'
    head = f"<h2>{_text(_speaker(turn))}</h2>"
    below = [_measured(turn.answer), turn.answer.remark]
    notes = [f"<p>{_text(_sentence(one))}</p>" for one in below if one]
    if turn.answer.problem:
        notes.append(f'<p class="bad">{_text(turn.answer.problem)}</p>')
    prose = _levelled("\n".join(_rendered(turn, turn.answer, tokens)))
    foot = f"<footer>{''.join(notes)}</footer>" if notes else ""
    return f'<article>{head}<div class="prose">{prose}</div>{foot}</article>'


def _measured(answer: Answer) -> str:
    """Numbers of an answer: "54 % me · 120 tokens · 31 tokens/s"."""
    parts = [] if answer.share is None else [f"{100 * answer.share:.0f} % me"]
    if answer.count:
        parts.append(f"{answer.count:,} tokens")
    if answer.count > 1 and answer.seconds > 0:
        # As on the page: the time of the first token is that of reading the prompt.
        parts.append(f"{(answer.count - 1) / answer.seconds:.3g} tokens/s")
    return " · ".join(parts)


def _rendered(turn: Turn, answer: Answer, tokens: Sequence[Said]) -> list[str]:
    """The answer as HTML, tinted where its tokens are those of the text."""
    shown = blocks(turn.text)
    if not tokens or not marks.routed(tokens, answer.experts):
        return [block.html for block in shown]
    pieces = marks.pieces(tokens)
    leans = marks.leans(tokens, pieces, answer.experts)
    over = marks.over(shown, pieces, leans)
    return [_tinted(b.html, m) for b, m in zip(shown, over, strict=True)]


def _levelled(source: str) -> str:
    """An answer whose highest heading is of the level below that of its speaker.

    A model that begins with `##` would leave a level out, where people go by them.
    """
    levels = [int(level) for level in HEADING.findall(source)]
    up = min(levels, default=HIGHEST) - HIGHEST
    return HEADING_TAG.sub(lambda tag: f"{tag[1]}{int(tag[2]) - up}", source)


def _tinted(source: str, over: Sequence[Mark]) -> str:
    """A block's HTML with its marks laid over its text.

    A mark may reach over the edges of elements: each run of text gets its part of it.

    Args:
        source: The HTML that `markdown.blocks` made: tags, and escaped text.
        over: The marks, in the order of the text.
    """
    made: list[str] = []
    at = first = 0
    for part in PARTS.findall(source):
        if part.startswith("<"):
            made.append(part)
            continue
        text = html.unescape(part)
        end = at + units(text)
        while first < len(over) and over[first][1] <= at:
            first += 1
        last = first
        while last < len(over) and over[last][0] < end:
            last += 1
        made += _run(text, at, over[first:last])
        at = end
    return "".join(made)


def _run(text: str, at: int, over: Sequence[Mark]) -> list[str]:
    """A run of text that begins at a place of the block, with marks laid over it."""
    wide, made, done = text.encode("utf-16-le", "surrogatepass"), [], 0

    def cut(start: int, stop: int) -> str:
        found = wide[2 * start : 2 * stop].decode("utf-16-le", "surrogatepass")
        return _text(found)

    size = len(wide) // 2
    for start, stop, _, tint in over:
        begin, end = max(start - at, done), min(stop - at, size)
        if tint and begin < end:
            side = "mine" if tint > 0 else "theirs"
            words = f'<span class="{side}" style="--tint:{abs(tint)}">'
            made += [cut(done, begin), words, cut(begin, end), "</span>"]
            done = end
    return [*made, cut(done, size)]
