from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.data.documents.hypertext import decoded, plain
from comigs_mlx.data.formats.html import read
from comigs_mlx.data.pieces import Cut, Document
from comigs_mlx.data.reading_options import DEFAULT

PAGE = """<!doctype html><html><head><title>T</title><style>x</style></head><body>
<nav><ul><li>Home</ul><footer>deep</footer></nav><h1>Title</h1>
<p>One  <b>bold</b>
word<br>next.<script>no()</script></p><ul><li>a<li>b</ul>
<pre>x = 1
  y</pre><table><tr><td>1<td>2<tr><td>3<td>4</table><div>l1</div><div>l2</div></body>"""
SAMPLES = {"page.html": PAGE, "x.dat": "<?xml version='1.0'?>\n<html><p>a</p></html>"}


def test_a_page(write: Callable[..., Path]) -> None:
    path = write({"a.html": PAGE}) / "a.html"
    cut, document = read(path, DEFAULT)
    assert isinstance(cut, Cut)
    assert cut.what == "menus and footers of pages"
    assert document == Document(
        "Title\n\nOne bold word\nnext.\n\na\nb\n\nx = 1\n  y\n\n1\t2\n3\t4\n\nl1\nl2",
        str(path),
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "cp1251"])
def test_encodings(encoding: str) -> None:
    word = "Привет" if encoding == "cp1251" else "Grüße"
    meta = {"cp1251": '<meta charset="windows-1251">'}.get(encoding, "")
    assert plain(decoded(f"{meta}<p>{word}".encode(encoding)))[0] == word
