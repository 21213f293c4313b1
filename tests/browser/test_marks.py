"""Rendered blocks in a browser: what it shows is what spans and marks count in."""

import random

import pytest

from comigs_mlx.conversations.markdown import blocks
from comigs_mlx.conversations.marks import over, pieces
from tests.conversations.test_marks import Token

pytestmark = pytest.mark.browser

ANSWER = """## Pancakes 🥞 for **two**

Mix *flour* &amp; milk, see [the book](https://a.example/x) or https://b.example/y.
![a picture](https://c.example/z.png) עם `sugar  x` \\*not this\\*

1. break 👩‍👩‍👧 eggs
   - two
   - > or **three** ~~four~~

| what | much |
|:--|--:|
| milk \\| cream | `1 l` |

```python
if a < b:

    print("</code><script>document.title = 'hacked'</script>")
```
<img src=x onerror="document.title = 'hacked'">
"""
HOSTILE = [
    "[x](javascript:document.title='hacked') <svg onload=alert(1)>",
    "[x](https://a.example/\"onmouseover=\"document.title='hacked')",
    "```\n\nbegins with a line feed",
    "`\n`\r\n\0 \u2028 \ufeff \u0085 \x0b \x0c \x1b",
    "|<table>|\n|-|\n|</table><p>|",
    "*a " * 200 + "*" * 200,
    "> " * 40 + "deep\n" + "- " * 40 + "deep",
    "<select><option><template><textarea></style></title><!--",
    "&lt;img src=x onerror=document.title='hacked'&gt; &#0; &#xD800; &#13;",
]
SHOW = """([html, marks]) => {
  const box = document.body.appendChild(document.createElement("div"));
  box.innerHTML = html;
  const whole = box.textContent;
  const nodes = [], walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  let at = 0;
  while (walker.nextNode()) {
    nodes.push([at, walker.currentNode]);
    at += walker.currentNode.length;
  }
  const shown = marks.map(([start, end]) => nodes.map(([from, node]) =>
    node.data.slice(Math.max(start - from, 0), Math.max(end - from, 0))).join(""));
  return [whole, box.children.length, shown];
}"""
"""Put a block into the page -> its text, its elements, and what is under each mark."""


def words(text, seed):
    """A text in pieces of odd lengths, as a tokenizer makes them."""
    draw, at = random.Random(seed), 0
    while at < len(text):
        size = draw.randint(1, 7)
        yield Token(text[at : at + size])
        at += size


def shown(page, text):
    """Show all blocks -> the tokens' pieces of the text, and what is under each."""
    tokens = list(words(text, len(text)))
    parts = pieces(tokens)
    rendered = blocks(text)
    laid = over(rendered, parts, [0.0] * len(parts))
    under = dict.fromkeys(range(len(parts)), "")
    for block, marks in zip(rendered, laid, strict=True):
        whole, elements, said = page.evaluate(SHOW, [block.html, marks])
        assert (whole, elements) == (block.text, 1)
        for (_, _, piece, _), part in zip(marks, said, strict=True):
            under[piece] += part
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert page.title() == ""
    return [(text[one.start : one.end], under[i]) for i, one in enumerate(parts)]


def test_marks_lie_over_the_text_that_a_browser_shows(page):
    for written, said in shown(page, ANSWER):
        assert "&" in written or is_part(said, written)


def is_part(said, written):
    """Whether markup alone was taken out of what was written."""
    rest = iter(written)
    return all(letter in rest for letter in said)


def test_a_browser_reads_hostile_text_as_text(page):
    for text in HOSTILE:
        shown(page, text)
