"""Rendering: right, safe, in linear time, and each character knows its place."""

import html
import re
from html.parser import HTMLParser

from hypothesis import example, given, settings
from hypothesis import strategies as st

from comigs_mlx.conversations.markdown import blocks, units

WORDS = st.sampled_from(
    [
        *"\n\n\n  \t*_~`[]()!<>#|-+.\\&:1\"'=",
        "\n\n",
        "```",
        "> ",
        "- ",
        "1. ",
        "    ",
        "|-|-|\n",
        "a|b",
        "\n| x | y |\n|---|:-:|\n| `p` | q\\|r |\n",
        "**",
        "~~",
        "&amp;",
        "&#x1F600;",
        "&nosuch;",
        "[x](https://a.b/c)",
        "![x](http://a.b)",
        "https://a.b/c(d).",
        "<https://a.b>",
        "word",
        "é",
        "😀",
        "👩‍👩‍👧",
        "שלום",
        "\r\n",
        "\r",
        "\0",
        "\ud800",
        "\u2028",
        "\x0b",
        "\x85",
        "\u3000",
        "<script>",
    ]
)
TEXTS = st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=80)


class Page(HTMLParser):
    """What a browser makes of HTML: its text, and its elements."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.tags = "", [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def only(text):
    (block,) = blocks(text)
    return block


def places(text, block):
    """Each character of a block's text, and its place in the source."""
    wide = block.text.encode("utf-16-le")
    for start, end, source in block.spans:
        shown = wide[2 * start : 2 * end].decode("utf-16-le")
        yield from ((one, source + i) for i, one in enumerate(shown))


def same(shown, text, at):
    """Whether the source has the shown character at a place."""
    found = re.compile(r"&#?\w+;").match(text, at)
    return (
        shown == text[at]
        or (shown in " \n" and text[at] in "\r\n")
        or (shown == "\ufffd" and re.match("[\0\ud800-\udfff]", text[at]))
        or (found is not None and shown in html.unescape(found[0]))
    )


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("- a | b\n  -|-\n  - | -")
@example("> # # #\n> > > x | >\n> > > -|-\n> > > > | y")
@example("\u3000\n\ta\n- \tb\n\n\t\tc")
def test_every_text_is_rendered_and_each_character_found(text):
    for block in blocks(text):
        page = Page(block.html)
        assert page.text == block.text
        before = 0
        for start, end, _ in block.spans:
            assert before <= start < end <= units(block.text)
            before = end
        for shown, at in places(text, block):
            assert same(shown, text, at), (shown, at)
