"""Rendering: right, safe, in linear time, and each character knows its place."""

import html
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from comigs_mlx.conversations.markdown import Rendering, blocks, units

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
@example("# \u3000a\n## \u3000# #")
@example("\u3000\n\ta\n- \tb\n\n\t\tc")
def test_every_text_is_rendered_and_each_character_found(text):
    for block in [*blocks(text), *blocks(text, growing=True)]:
        page = Page(block.html)
        assert page.text == block.text
        before = 0
        for start, end, _ in block.spans:
            assert before <= start < end <= units(block.text)
            before = end
        for shown, at in places(text, block):
            assert same(shown, text, at), (shown, at)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=25), st.integers(1, 4))
def test_a_growing_text_is_rendered_as_a_whole_one(parts, step):
    growing = Rendering()
    for count in range(0, len(parts) + step, step):
        text, before = "".join(parts[:count]), list(growing.blocks)
        first = growing.show(text, growing=count % 2 == 0)
        assert growing.blocks == blocks(text, growing=count % 2 == 0)
        assert growing.blocks[:first] == before[:first]


def test_only_the_last_blocks_of_a_growing_text_are_rendered_again(monkeypatch):
    growing, text = Rendering(), "a\n\n" * 50
    growing.show(text)
    rendered = []
    monkeypatch.setattr(
        "comigs_mlx.conversations.markup.inline_tokens",
        lambda content, growing: rendered.append(content) or [],
    )
    assert growing.show(text + "b") == 48
    assert rendered == ["a", "a", "b"]


def test_another_text_is_rendered_anew():
    growing = Rendering()
    growing.show("a\n\nb\n\nc\n\nd")
    assert growing.show("a\n\nb\n\nc\n\ne") == 0
    assert [one.text for one in growing.blocks] == ["a", "b", "c", "e"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["word", *"\n\n\n *_~>#-", "> ", "- ", "1. ", "    ", "word"]),
        max_size=60,
    )
)
def test_no_word_is_lost(parts):
    text = " ".join(parts)
    assert sum(one.text.count("word") for one in blocks(text)) == text.count("word")


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "- > ", "*", "[", "**a ", "~~a "])
def test_no_word_is_lost_however_deep(mark):
    for count in (50, 1_000):
        shown = "".join(one.text for one in blocks(f"{mark * count}word"))
        assert shown.endswith("word")


LINK = {"target": "_blank", "rel": "noopener noreferrer nofollow"}
SAFE = {
    "a": {"href", "target", "rel"},
    "div": {"class", "role", "aria-label", "tabindex", "data-language"},
    "pre": {"tabindex", "dir"},
    "code": {"class", "dir"},
    "ol": {"start", "dir"},
    **dict.fromkeys(("th", "td"), {"class", "dir"}),
    **dict.fromkeys(("p", "h3", "h4", "h5", "h6", "ul", "li", "blockquote"), {"dir"}),
    **dict.fromkeys(
        ("table", "thead", "tbody", "tr", "em", "strong", "s", "br", "hr"), set()
    ),
}


def safe(text):
    """Check that a rendered text does nothing; return its links."""
    links = []
    for block in blocks(text):
        for tag, values in Page(block.html).tags:
            assert set(values) <= SAFE[tag], (tag, values)
            if tag == "a":
                assert {**values, **LINK} == values
                assert re.fullmatch(r"(https?://|mailto:)[^\s<>\"]+", values["href"])
                links.append(values["href"])
    return links


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_only_known_elements_and_addresses_are_made(text):
    safe(text)


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java&#10;script:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](\x01javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "![x](data:image/svg+xml,<svg onload=alert(1)>)",
        "[x](vbscript:x) [x](file:///etc/passwd) [x](//evil) [x](/gradio_api/x)",
        "[x](#top) [x](blob:x) [x](about:blank) [x](https:evil) [x](http:/evil)",
        "<javascript:alert(1)> <data:text/html,x> <file:///etc/passwd>",
        "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>",
        "<iframe src='//evil'></iframe> <svg/onload=alert(1)>",
        "&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62;",
        "[x]: javascript:alert(1)\n\n[x]",
        '```"><script>alert(1)</script>\nx\n```',
        "~~~x onload=alert(1)\n</code></pre><script>alert(1)</script>",
        "`</code><script>alert(1)</script>`",
        "|<script>|\n|-|\n|`</td><img src=x onerror=alert(1)>`|",
        "1<!-- --><!--\n-->\n\n<![CDATA[<img src=x>]]>\n<?php ?>",
    ],
)
def test_what_could_do_something_is_text(text):
    assert safe(text) == []


@pytest.mark.parametrize(
    ("text", "links"),
    [
        (
            '[x](https://a.b/"onmouseover="alert(1))',
            ["https://a.b/%22onmouseover=%22alert(1)"],
        ),
        ("[x](<https://a.b/c d>)", ["https://a.b/c%20d"]),
        ("[x](https://a.b/?a=1&b=2)", ["https://a.b/?a=1&b=2"]),
        ("[x](mailto:a@b.c)", ["mailto:a@b.c"]),
        ("[x](https://bücher.de)", ["https://xn--bcher-kva.de"]),
        ("[[x](http://a.b)](http://c.d)", ["http://c.d"]),
        ("[![x](http://a.b/c.png)](http://c.d)", ["http://c.d"]),
        ("![x](http://a.b/c.png)", ["http://a.b/c.png"]),
        ("(see https://a.b/c_(d).)", ["https://a.b/c_(d)"]),
        ("<https://a.b> <mailto:a@b.c>", ["https://a.b", "mailto:a@b.c"]),
        ("`https://a.b`\n\n    https://a.b", []),
        ("xhttps://a.b", []),
        ("[](https://a.b)", ["https://a.b"]),
    ],
)
def test_links_lead_where_they_say(text, links):
    assert safe(text) == links


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb  \nc\\\nd", '<p dir="auto">a<br>b<br>c<br>d</p>'),
        ("# a\n## b\n#### c", ["h3", "h4", "h6"]),
        ("a\n-", ["p"]),
        ("a\n- b", ["p", "ul"]),
        ("a\n---", ["p", "hr"]),
        ("3. a", '<ol dir="auto" start="3"><li dir="auto">a</li></ol>'),
        ("~~a~~ *b* __c__", '<p dir="auto"><s>a</s> <em>b</em> <strong>c</strong></p>'),
        ("\\*a\\* &copy; &nosuch;", '<p dir="auto">*a* © &amp;nosuch;</p>'),
        ("snake_case_name 2*3*4", '<p dir="auto">snake_case_name 2<em>3</em>4</p>'),
    ],
)
def test_what_is_made_of_what(text, shown):
    made = [one.html for one in blocks(text)]
    if isinstance(shown, str):
        assert made == [shown]
    else:
        assert [re.match(r"<(\w+)", one)[1] for one in made] == shown


def test_code_that_is_not_closed_yet_is_code():
    code = only("```python\nx = 1 < 2\n")
    assert code.text == "x = 1 < 2"
    assert 'data-language="python"' in code.html
    assert '<code class="language-python">x = 1 &lt; 2</code>' in code.html


def test_a_table_keeps_its_alignment_and_bars():
    table = only("| a | b |\n|:-:|--:|\n| x\\|y | `p\\|q` |\n| |z|")
    assert table.text == "abx|yp|qz"
    assert '<th dir="auto" class="cm-center">a</th>' in table.html
    assert '<td dir="auto" class="cm-right">z</td>' in table.html


def test_offsets_count_utf_16_units():
    text = "😀 **é** 👍🏽 שלום"
    assert only(text).text == "😀 é 👍🏽 שלום"
    assert only(text).spans == ((0, 3, 0), (3, 4, 4), (4, 14, 7))
    assert units(only(text).text) == 14


def test_carriage_returns_are_counted_in_the_source():
    first, second = blocks("a\r\nb\rc\r\n\r\n**d**")
    assert first.spans == ((0, 1, 0), (1, 2, 3), (2, 3, 5))
    assert (second.start, second.spans) == (10, ((0, 1, 12),))


def test_blanks_that_a_tab_stands_for_were_nowhere():
    assert blocks("- a\n\n\t\tb")[0].text == "a  b"
    assert blocks("- a\n\n\t\tb")[0].spans == ((0, 1, 2), (3, 4, 7))


HOSTILE = {
    "brackets": "[",
    "links": "[a](",
    "angled": "[a](<b",
    "nested pictures": "![[]",
    "backticks": "`a ``b ",
    "rows": "|a\n",
    "tables": "a|b\n-|-\n",
    "quotes": "> " * 40 + "a\n",
    "items": "- a\n",
    "deep items": "- ",
    "stars": "*a_ ",
    "strong": "a**b",
    "tildes": "~~a",
    "angles": "<http://a",
    "addresses": "http://a.b ",
    "closed": "http://a" + ")" * 1_000 + " ",
    "entities": "&amp",
    "escapes": "\\",
    "fences": "~~~\n",
    "blank": " \t",
}


@pytest.mark.parametrize("size", [30_000, 200_000])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_time(name, size):
    text = (HOSTILE[name] * size)[:size]
    began = time.process_time()
    shown = blocks(text)
    assert time.process_time() - began < 1
    assert sum(len(one.html) for one in shown) < 12 * size


def test_a_growing_text_takes_no_time():
    growing, text = Rendering(), ""
    began = time.process_time()
    for index in range(400):
        text += "Some **words** here and `code`." + ("\n\n" if index % 10 == 0 else " ")
        growing.show(text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("so **ho", "so <strong>ho</strong>"),
        ("so ***ho", "so <em><strong>ho</strong></em>"),
        ("_a **b", "<em>a <strong>b</strong></em>"),
        ("~~a", "<s>a</s>"),
        ("_a **b_", "<em>a **b</em>"),
        ("2 * 3", "2 * 3"),
        ("so `x **y", 'so <code dir="ltr">x **y</code>'),
        ("see [this](https://a", "see this"),
        ("see [this](java", "see this"),
        ("a `", "a `"),
    ],
)
def test_what_may_be_closed_yet_is_shown_as_if_it_were(text, shown):
    (block,) = blocks(f"{text}", growing=True)
    assert block.html == f'<p dir="auto">{shown}</p>'
    first, last = blocks(f"**a\n\n{text}", growing=True)
    assert first.html == '<p dir="auto">**a</p>'
    assert last.html == block.html
    assert blocks(f"{text}\n\n---", growing=True)[0] == blocks(text)[0]
