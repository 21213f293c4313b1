from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.signal import matches, read
from comigs_mlx.data.pieces import HEAD, Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]

MARKDOWN = """\
[2024-01-01 10:00:00] Me: How is everyone?$

[2024-01-01 10:00:05] Ann: \n
> How is
> everyone?

We're great!$
(- Me: 👍, Ben: x -)

[2024-01-01, 10:01] Me: look  ![a.jpg](./media/2024-01-01T10-01-00.000_00_a.jpg)$

[2024-01-01 10:02:00] Ann: [a.pdf](./media/a.pdf)$

[2024-01-01 10:03:00] Ann: Incoming voice call (accepted, 3m 1s)$

[2024-01-01 10:03:30] No-Sender:$

[2024-01-01 10:04:00] Ann: (This message was deleted)

""".replace("$", "  ")  # an editor would take them away


def message(sender: str, body: str, **fields: Any) -> dict[str, Any]:
    return {
        "date": "2024-01-01T10:00:00",
        "sender": sender,
        "body": body,
        "quote": "",
        "sticker": None,
        "reactions": [],
        "attachments": [],
        **fields,
    }


SAMPLES = {
    "Ann/chat.md": MARKDOWN,
    "Ben/data.json": json.dumps(message("Me", "hi")) + "\n",
}


def pieces(path: Path) -> list[Piece]:
    raw = path.read_bytes()
    assert matches(FileHead(str(path), raw[:HEAD], len(raw)))
    return list(read(path, Reading()))


def test_markdown_knows_who_i_am_and_loses_quotes_reactions_and_media(
    write: Write,
) -> None:
    found = pieces(write({"chat.md": MARKDOWN}) / "chat.md")
    assert [
        (p.speaker, p.text, p.by_me, (p.time or 0) % 100)
        for p in found
        if isinstance(p, Message)
    ] == [
        ("Me", "How is everyone?", True, 0),
        ("Ann", "We're great!", False, 5),
        ("Me", "look", True, 60),
    ]
    cuts = [p.what for p in found if isinstance(p, Cut)]
    assert cuts == ["reactions", "quotes", "links to media", "links to media"]
    assert [p.what for p in found if isinstance(p, Skipped)] == [
        "media without text",
        "calls or service messages",
        "calls or service messages",
        "deleted messages",
    ]


def test_the_three_files_of_a_chat_are_read_once(write: Write) -> None:
    rows = [
        message("Me", "hi  ", quote="\n\n> old\n\n"),
        message("Ann", "Missed call", call=True),
        message("Ann", "so\nso"),
        message("Ann", "", deleted=True),
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    files = {"data.json": text, "chat.md": MARKDOWN, "index.html": "<!doctype html>"}
    folder = write(files)
    found = pieces(folder / "data.json")
    assert [p.text for p in found if isinstance(p, Message)] == ["hi", "so\nso"]
    for name in ("chat.md", "index.html"):
        (skipped,) = pieces(folder / name)
        assert isinstance(skipped, Skipped)
    (folder / "data.json").unlink()
    assert len(pieces(folder / "chat.md")) > 1
    (skipped,) = pieces(folder / "index.html")
    assert isinstance(skipped, Skipped)


def test_a_broken_line_is_an_error(write: Write) -> None:
    text = json.dumps(message("Me", "hi")) + '\n{"date": '
    with pytest.raises(DataError, match=r"data\.json:2: expected a message"):
        pieces(write({"data.json": text}) / "data.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat.txt", "[2024-01-01 10:00:00] Ann: hi"),  # as WhatsApp has it in Sweden
        ("notes.md", "# Notes\n[2024-01-01 10:00:00] Me: hi"),
        ("index.html", "<p>"),
        ("data.json", '{"date": "x", "sender": "y"}'),
    ],
)
def test_leaves_other_files_alone(name: str, text: str, write: Write) -> None:
    path = write({name: text}) / name
    assert not matches(FileHead(str(path), text.encode(), len(text)))
