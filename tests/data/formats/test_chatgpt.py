from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.chatgpt import matches, read
from comigs_mlx.data.pieces import HEAD, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def node(
    key: str,
    parent: str | None,
    role: str,
    *parts: Any,
    kind: str = "text",
    children: tuple[str, ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    content = {"content_type": kind, "parts": list(parts)}
    message = {"author": {"role": role}, "create_time": 5.5, "content": content}
    return {
        "id": key,
        "parent": parent,
        "children": list(children),
        "message": {**message, "recipient": "all", **fields},
    }


def conversation(*nodes: dict[str, Any], current: str | None = None) -> dict[str, Any]:
    root = {"id": "root", "message": None, "parent": None, "children": ["1"]}
    mapping = {n["id"]: n for n in (root, *nodes)}
    return {"title": "T", "mapping": mapping, "current_node": current}


BRANCHED = conversation(
    node("1", "root", "system", "", children=("2", "2b")),
    node("2", "1", "user", "first try", children=("3",)),
    node("3", "2", "assistant", "first answer"),
    node("2b", "1", "user", "edited", children=("3a", "3b")),
    node("3a", "2b", "assistant", "second answer"),
    node("3b", "2b", "assistant", "third answer"),
    current="3b",
)

SAMPLES = {
    "conversations.json": json.dumps([BRANCHED]),
    "conversations/1.json": json.dumps(BRANCHED, indent=2),
}


def pieces(path: Path) -> list[Piece]:
    raw = path.read_bytes()
    assert matches(FileHead(str(path), raw[:HEAD], len(raw)))
    return list(read(path, Reading()))


@pytest.fixture
def export(write: Write) -> Callable[..., list[Piece]]:
    def read_it(*conversations: Any) -> list[Piece]:
        folder = write({"conversations-000.json": json.dumps(conversations)})
        return pieces(folder / "conversations-000.json")

    return read_it


def test_follows_the_current_branch_alone(export: Callable[..., list[Piece]]) -> None:
    found = export(BRANCHED, BRANCHED)
    assert [
        (p.thread, p.text, p.by_me, p.by_model) for p in found if isinstance(p, Message)
    ] == [
        (thread, text, model is False, model)
        for thread in ("1", "2")
        for text, model in (("edited", False), ("third answer", True))
    ]


def test_without_a_current_node_the_latest_leaf_counts(
    export: Callable[..., list[Piece]],
) -> None:
    late = {**BRANCHED["mapping"]["3"]}
    late["message"] = {**late["message"], "create_time": 9}
    changed = {**BRANCHED, "mapping": {**BRANCHED["mapping"], "3": late}}
    del changed["current_node"]
    texts = [p.text for p in export(changed) if isinstance(p, Message)]
    assert texts == ["first try", "first answer"]


def test_only_what_was_said_is_read(export: Callable[..., list[Piece]]) -> None:
    image = {"content_type": "image_asset_pointer"}
    found = export(
        conversation(
            node("1", "root", "user", image, "what is it?", kind="multimodal_text"),
            node("2", "1", "assistant", "x", kind="thoughts"),
            node("3", "2", "assistant", "search()", kind="code", recipient="web"),
            node("4", "3", "tool", "result"),
            node("5", "4", "user", image, kind="multimodal_text"),
            node("6", "5", "user", "x", kind="user_editable_context"),
            node("7", "6", "assistant", "half \ud83d\r\na cat"),
            current="7",
        )
    )
    assert [p.text for p in found if isinstance(p, Message)] == [
        "what is it?",
        "half ?\na cat",
    ]
    assert [type(p) for p in found].count(Skipped) == 4


def test_a_circle_is_an_error(export: Callable[..., list[Piece]]) -> None:
    circle = conversation(node("1", "2", "user", "x"), node("2", "1", "user", "y"))
    with pytest.raises(DataError, match=r"000\.json:1: a message is its own ancestor"):
        export({**circle, "current_node": "1"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[{"mapping": 5}]', r"c\.json:1: expected a conversation with a mapping"),
        ("[\n5]", r"c\.json:1: expected a conversation"),
        ('[\n{"mapping": {}},\n}', r"c\.json:3: expected JSON: .*export it again"),
        ('[{"mapping": {}}', r"c\.json:1: expected JSON: expected ,: the file is cut"),
        (
            '[{"mapping": {"a',
            r"c\.json:1: expected JSON: Unterminated.*the file is cut",
        ),
        ("[" * 100_000, r"c\.json:1: expected JSON: it is too deeply nested"),
    ],
)
def test_broken_files_are_errors_with_their_line(
    text: str, error: str, write: Write
) -> None:
    with pytest.raises(DataError, match=error):
        list(read(write({"c.json": text}) / "c.json", Reading()))


def test_a_large_file_is_read_in_pieces(write: Write) -> None:
    """The objects of the whole file would take ten times as much."""
    one = json.dumps(conversation(node("1", "root", "user", "x" * 50_000), current="1"))
    path = write({"c.json": "[" + ",".join([one] * 200) + "]"}) / "c.json"
    tracemalloc.start()
    count = sum(1 for _ in read(path, Reading()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200
    assert path.stat().st_size > 10_000_000
    # Two characters a byte of the file's buffer, read again with what was left over.
    assert peak < 8_000_000
