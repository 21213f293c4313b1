from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.formats import markdown, text
from comigs_mlx.data.formats.markdown import FRONT_MATTER, plain, read
from comigs_mlx.data.pieces import Cut, Document
from comigs_mlx.data.reading_options import DEFAULT

NOTE = """---
tags: [a, b]
aliases:
  - Other
- loose
# comment

---
# Day
See [[Ann Lee|Ann]], [[Plan#Goal]] and [[Bob]].
![[picture.png]]
`[[ -f x ]]` stays, and so does

```sh
if [[ -f "$x" ]]; then ![[a]]; fi
```
"""
SAMPLES = {"note.md": NOTE, "deep/PLAIN.MD": "# Title\n\nText with [a](b).\n"}


def pieces(path: Path, content: str) -> list[object]:
    path.write_text(content)
    return list(read(path, DEFAULT))


def test_obsidian(tmp_path: Path) -> None:
    path = tmp_path / "note.md"
    matter, embeds, document = pieces(path, NOTE)
    assert matter == Cut("front matter", NOTE.index("# Day"), str(path))
    assert embeds == Cut("embedded files", len("![[picture.png]]"), str(path))
    assert document == Document(
        "# Day\nSee Ann, Plan > Goal and Bob.\n\n`[[ -f x ]]` stays, and so does\n\n"
        '```sh\nif [[ -f "$x" ]]; then ![[a]]; fi\n```',
        str(path),
    )


@pytest.mark.parametrize(
    "content",
    [
        "---\nA ruler, and prose below it.\n\n---\nMore.",
        "---\nA ruler: and no end.\n",
        "Text\n---\na: b\n---\n",
        "--- \n\n![img](a.png) [link](x) [x]: y\n",
        "a [[b] c]] [[d\ne]]",
    ],
)
def test_everything_else_stays(content: str, tmp_path: Path) -> None:
    (document,) = pieces(tmp_path / "a.md", content)
    assert document == Document(content.strip("\n"), str(tmp_path / "a.md"))


LINES = st.lists(st.text(st.sampled_from("ab[]!`#-:| \t\u00fc"), max_size=8))


@settings(deadline=None, max_examples=50)
@given(LINES)
def test_plain_markdown_is_text(lines: list[str]) -> None:
    """What has neither links nor front matter is what the format text makes of it."""
    content = "\n".join(lines).replace("[[", "[")
    assert plain(content) == (content, 0)
    assert FRONT_MATTER.match("x" + content) is None


def test_damaged_front_matter_takes_no_time() -> None:
    assert FRONT_MATTER.match("---\n" + "  - a: b\n" * 100_000) is None
    assert plain("[[a" + "`" * 100_000 + "[[" * 100_000)[1] == 0


def test_markdown_comes_before_text() -> None:
    assert markdown.ORDER < text.ORDER
