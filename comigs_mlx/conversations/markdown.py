"""Markdown -> blocks of safe HTML, and where in the source each shown character was.

    (block,) = blocks("So **hot** &amp; dry")
    block.html   <p dir="auto">So <strong>hot</strong> &amp; dry</p>
    block.text   So hot & dry
    block.spans  ((0, 3, 0), (3, 6, 5), (6, 7, 10), (7, 8, 11), (8, 12, 16))

What a page shows of a block, its `textContent`, is `Block.text`: no white space between
the elements, and no label, is part of it. So tokens can be laid over what was rendered.
Only the tags and attributes that are written below ever appear; all text is escaped.
Nothing is loaded from elsewhere: a picture is a link.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from markdown_it.token import Token

from comigs_mlx.conversations import markup

MOST_MARKS = 10_000
"""Characters that may mean something, in one text. One with more is shown as it is.

Reading one takes 10 to 60 microseconds, an address 100; answers have hundreds.
"""

MOST_INSIDE = 24
"""Elements inside one another in a line; deeper ones are left out, their text stays."""

MEANT = re.compile(r"[\n\\`*_~\[\]!&<>|#]|https?://")
HALF = re.compile("[\0\ud800-\udfff]")
LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,30}")

Span = tuple[int, int, int]
"""Start and end in the text of a block, and the start in the source.

The first two count UTF-16 units, as JavaScript does; the last counts characters.
Character by character the two are the same, but for an entity (`&amp;` is one character
of text), a line break in code within a line (a space), a carriage return, and
characters that a page cannot hold (U+FFFD)."""


@dataclass(frozen=True, slots=True)
class Block:
    """One paragraph, list, table or other block that stands alone.

    Attributes:
        html: The HTML of its element.
        spans: The places that its text came from, in the order of the text; what was
            not in the source has none.
        text: The text that the page shows: the `textContent` of the element.
        start: The place in the source where its first line begins.
    """

    html: str
    spans: tuple[Span, ...]
    text: str
    start: int


def blocks(text: str, growing: bool = False) -> list[Block]:
    """Render a whole text.

    Args:
        text: Anything at all; it takes time in proportion to its length.
        growing: Whether more is coming: what its last line opens and does not close
            (`**so`) is then shown as if it were closed.
    """
    source = _Source(text)
    if len(MEANT.findall(source.text)) > MOST_MARKS:
        return [_plain(source)] if text else []
    tokens = markup.block_tokens(source.text)
    # Where a line of text is what was written last, it may go on.
    inner = (one for one in reversed(tokens) if one.nesting >= 0)
    last = next(inner, None) if growing else None
    return [_block(source, part, last) for part in _outermost(tokens)]


class Rendering:
    """A text that grows: only its last blocks are rendered again.

    A block is never changed by what comes after the block that follows it, so that a
    page replaces at most its last two blocks with each token.
    """

    def __init__(self) -> None:
        self.text = ""
        self.blocks: list[Block] = []

    def show(self, text: str, growing: bool = False) -> int:
        """Take a new state of the text.

        Args:
            text: The whole text; it may also be another one than before.
            growing: Whether the text may go on, as for `blocks`.

        Returns:
            The index of the first block that may have changed.
        """
        grown = text.startswith(self.text) and len(self.blocks) > 2
        kept = len(self.blocks) - 2 if grown else 0
        if len(MEANT.findall(text)) > MOST_MARKS:
            kept = 0
        start = self.blocks[kept].start if kept else 0
        tail = _moved(blocks(text[start:], growing), start)
        self.text, self.blocks = text, [*self.blocks[:kept], *tail]
        return kept


def _moved(some: Sequence[Block], by: int) -> list[Block]:
    """Blocks of a text that begins later in the source."""
    return (
        list(some)
        if not by
        else [
            Block(
                one.html,
                tuple((start, end, source + by) for start, end, source in one.spans),
                one.text,
                one.start + by,
            )
            for one in some
        ]
    )


def units(text: str) -> int:
    """The length in UTF-16 units, which JavaScript counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


class _Source:
    """A text with line feeds alone, and where its characters were before.

    Attributes:
        text: The text, as long as the original but for the line feed of `\\r\\n`.
        rows: The lines of the text.
        begins: The place in the text where each line begins.
    """

    def __init__(self, original: str) -> None:
        text = HALF.sub("\ufffd", original)
        self._gone: list[int] = []
        if "\r" in text:
            pairs = [found.start() for found in re.finditer("\r\n", text)]
            self._gone = [at - before for before, at in enumerate(pairs)]
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.text = text
        self.rows = text.split("\n")
        self.begins = [0]
        for line in self.rows:
            self.begins.append(self.begins[-1] + len(line) + 1)

    def original(self, at: int, size: int) -> Iterator[tuple[int, int]]:
        """Where characters were: (their place, how many of them) in order."""
        index = bisect_left(self._gone, at)
        while size > 0:
            end = self._gone[index] + 1 if index < len(self._gone) else at + size
            part = min(end - at, size)
            yield at + index, part
            at, size, index = at + part, size - part, index + 1


class _Origin:
    """Which places of a source the characters of a block's content have.

    Args:
        starts: The places where stretches of the content begin, ascending, from 0.
        places: The place of each of them in the source; -1 for nowhere.
    """

    def __init__(self, starts: Sequence[int], places: Sequence[int]) -> None:
        self._starts, self._places = starts, places

    def runs(self, at: int, size: int) -> Iterator[tuple[int, int]]:
        """Stretches of the content: (place in the source or -1, how long)."""
        index = bisect_right(self._starts, at) - 1
        while size > 0:
            last = index + 1 == len(self._starts)
            end = at + size if last else self._starts[index + 1]
            part = min(end - at, size)
            place = self._places[index]
            yield (place if place < 0 else place + at - self._starts[index]), part
            at, size, index = at + part, size - part, index + 1


def _of_lines(source: _Source, content: str, first: int, end: int) -> _Origin:
    """Find each line of a content in the lines `first` to `end` of the source.

    A line of the content is the tail of a line of the source: what comes before it are
    the marks of the quotes and lists around it, and its indentation.
    """
    starts, places, start = [0], [-1], 0
    for line in content.split("\n"):
        while first < end and (found := _tail(source.rows[first], line)) is None:
            first += 1
        if first < end and found is not None:
            blank, at = found
            if blank:
                starts.append(start)
                places.append(-1)
            starts.append(start + blank)
            places.append(source.begins[first] + at)
            first += 1
        start += len(line) + 1
    return _Origin(starts, places)


def _tail(line: str, tail: str) -> tuple[int, int] | None:
    """Where a tail begins in a line: (how much of it is a tab's spaces, the place)."""
    if line.endswith(tail):
        return 0, len(line) - len(tail)
    if (at := line.rfind(tail)) >= 0:
        return 0, at
    bare = tail.lstrip(" ")
    at = line.rfind(bare)
    return None if at < 0 else (len(tail) - len(bare), at)


class _Writer:
    """Gathers the HTML, the text and the spans of one block."""

    def __init__(self, source: _Source) -> None:
        self.html: list[str] = []
        self.text: list[str] = []
        self.spans: list[Span] = []
        self._source, self._length, self._next = source, 0, -1

    def tag(self, html: str) -> None:
        """Add markup; nothing of a source goes in here that is not escaped."""
        self.html.append(html)

    def write(self, text: str, origin: _Origin, at: int) -> None:
        """Add text that is found at a place of a content."""
        self.html.append(escape(text))
        self.text.append(text)
        done = 0
        for place, size in origin.runs(at, len(text)):
            if place < 0:
                self._skip(text[done : done + size])
                done += size
                continue
            for before, part in self._source.original(place, size):
                self._span(text[done : done + part], before, part)
                done += part

    def write_whole(self, text: str, origin: _Origin, at: int) -> None:
        """Add text all of which comes from one place."""
        self.html.append(escape(text))
        self.text.append(text)
        place = next(origin.runs(at, 1))[0]
        for before, _ in self._source.original(place, 1) if place >= 0 else ():
            for character in text:
                self._next = -1
                self._span(character, before, 1)
            self._next = -1
            return
        self._skip(text)

    def _skip(self, text: str) -> None:
        self._length += units(text)
        self._next = -1

    def _span(self, text: str, before: int, size: int) -> None:
        end = self._length + units(text)
        if before == self._next and self.spans:
            start, _, source = self.spans[-1]
            self.spans[-1] = (start, end, source)
        else:
            self.spans.append((self._length, end, before))
        self._length, self._next = end, before + size

    def block(self, start: int) -> Block:
        """What was gathered."""
        text = "".join(self.text)
        return Block("".join(self.html), tuple(self.spans), text, start)


def _plain(source: _Source) -> Block:
    """A text as it is, its line breaks kept by the style sheet."""
    writer = _Writer(source)
    writer.tag('<p class="cm-plain" dir="auto">')
    writer.write(source.text, _Origin([0], [0]), 0)
    writer.tag("</p>")
    return writer.block(0)


def _outermost(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Tokens, divided where no block is open."""
    start = depth = 0
    for index, token in enumerate(tokens):
        depth += token.nesting
        if not depth:
            yield tokens[start : index + 1]
            start = index + 1


def _block(source: _Source, tokens: Sequence[Token], last: Token | None) -> Block:
    """Render one block; `last` is the line that may still grow."""
    first = tokens[0].map[0] if tokens[0].map else 0
    writer = _Writer(source)
    cells: Iterator[_Origin] = iter(())
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            cells = _of_row(source, tokens, index)
        elif token.type == "inline":
            origin = _origin(source, tokens, index, cells)
            _inline(writer, token, origin, token is last)
        elif token.type in ("fence", "code_block"):
            _code(writer, source, token)
        elif not token.hidden:
            writer.tag(_element(token))
            continue
        if token.type == "tr_open":
            writer.tag("<tr>")
    start, _ = next(source.original(source.begins[first], 1))
    return writer.block(start)


def _origin(
    source: _Source, tokens: Sequence[Token], index: int, cells: Iterator[_Origin]
) -> _Origin:
    """Where the content of an inline token was."""
    token, before = tokens[index], tokens[index - 1]
    first, end = token.map or (0, 0)
    if before.tag in ("th", "td"):
        return next(cells)
    if before.type == "heading_open":
        marks = before.meta["at"] + len(before.markup)  # after them there are blanks
        return _Origin([0], [max(source.text.find(token.content, marks), marks)])
    return _of_lines(source, token.content, first, end)


def _of_row(source: _Source, tokens: Sequence[Token], index: int) -> Iterator[_Origin]:
    """Where the cells of a table's row were."""
    at = tokens[index].meta["at"]
    while tokens[index].type != "tr_close":
        if tokens[index].type == "inline":
            content = tokens[index].content
            if content:  # between two that are not empty there are only bars and blanks
                at = source.text.find(content.replace("|", "\\|"), at)
            origin, at = _of_cell(content, at)
            yield origin
        index += 1


def _of_cell(content: str, at: int) -> tuple[_Origin, int]:
    """Where a cell was, whose `\\|` has become `|`, and where it ends."""
    starts, places = [0], [at]
    for index, character in enumerate(content):
        if character == "|":
            at += 1
            starts.append(index)
            places.append(at)
        at += 1
    return _Origin(starts, places), at


def _inline(writer: _Writer, token: Token, origin: _Origin, growing: bool) -> None:
    """Write a line of text with its emphasis, links and code."""
    depth = 0
    for one in markup.inline_tokens(token.content, growing):
        if one.type == "text":
            if one.meta.get("whole"):
                writer.write_whole(one.content, origin, one.meta["at"])
            else:
                writer.write(one.content, origin, one.meta["at"])
        elif one.type == "br":
            writer.tag("<br>")
        elif one.type == "code_inline":
            writer.tag('<code dir="ltr">')
            writer.write(one.content, origin, one.meta["at"])
            writer.tag("</code>")
        else:
            depth -= one.nesting < 0
            if depth < MOST_INSIDE or one.tag == "a":
                writer.tag(_inline_element(one))
            depth += one.nesting > 0


def _inline_element(token: Token) -> str:
    if token.type == "link_open":
        href = escape(str(token.attrs["href"]))
        return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'
    return f"</{token.tag}>" if token.nesting < 0 else f"<{token.tag}>"


def _code(writer: _Writer, source: _Source, token: Token) -> None:
    """Write a code block; its language is an attribute, for a style sheet to show."""
    first, end = token.map or (0, 0)
    content = token.content.removesuffix("\n")
    named = LANGUAGE.match(token.info.strip())
    language = named[0] if named else ""
    kind = f' class="language-{escape(language)}"' if language else ""
    writer.tag(f'<div class="cm-code" data-language="{escape(language)}">')
    writer.tag(f'<pre tabindex="0" dir="ltr"><code{kind}>')
    first += token.type == "fence"
    writer.write(content, _of_lines(source, content, first, end), 0)
    writer.tag("</code></pre></div>")


def _element(token: Token) -> str:
    """The opening or closing tag of a block, or all of one that has no content."""
    tag = token.tag
    if tag in HEADINGS:
        tag = HEADINGS[tag]
    if token.nesting < 0:
        return f"</{tag}></div>" if tag == "table" else f"</{tag}>"
    if tag == "table":
        return (
            '<div class="cm-wide" role="region" aria-label="Table" tabindex="0"><table>'
        )
    attributes = ' dir="auto"' if tag in OWN_DIRECTION else ""
    if tag == "ol" and (start := token.attrs.get("start")) is not None:
        attributes += f' start="{int(start)}"'
    if style := token.attrs.get("style"):
        attributes += f' class="cm-{str(style).removeprefix("text-align:")}"'
    return f"<{tag}{attributes}>"


HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6", "h6": "h6"}
"""The page has headings of its own above an answer's."""

OWN_DIRECTION = (
    "p",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "blockquote",
    "th",
    "td",
)
"""Elements that are written from the right where their text is."""
