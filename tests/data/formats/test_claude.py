from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.claude import matches, read
from comigs_mlx.data.pieces import HEAD, FileHead, Message, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def block(kind: str, text: str = "") -> dict[str, str]:
    return {"type": kind, "text": text}


MESSAGES: list[dict[str, Any]] = [
    {
        "uuid": "1",
        "sender": "human",
        "text": "see  [file]",
        "content": [block("text", "see")],
        "created_at": "2024-01-01T10:00:00.000000Z",
        "attachments": [{"file_name": "a.txt", "extracted_content": "not said"}],
    },
    {
        "uuid": "2",
        "sender": "assistant",
        "text": "all of it, thoughts too",
        "content": [
            block("thinking", "hm"),
            block("text", "one"),
            block("tool_use"),
            block("text", "two"),
        ],
        "created_at": "2024-01-01T10:00:05Z",
    },
    {"uuid": "3", "sender": "human", "text": "older exports", "created_at": None},
]

EXPORT = [{"uuid": "c", "name": "T", "chat_messages": MESSAGES}]
SAMPLES = {"conversations.json": json.dumps(EXPORT)}


def test_reads_the_text_of_blocks_and_of_older_exports(write: Write) -> None:
    path = write(SAMPLES) / "conversations.json"
    raw = path.read_bytes()
    assert matches(FileHead(str(path), raw[:HEAD], len(raw)))
    pieces = list(read(path, Reading()))
    found = [p for p in pieces if isinstance(p, Message)]
    assert [(m.text, m.by_me, m.by_model, m.time) for m in found] == [
        ("see", True, False, 1_704_103_200),
        ("one\ntwo", False, True, 1_704_103_205),
        ("older exports", True, False, None),
    ]
    assert {m.thread for m in found} == {"1"}
    assert [p.what for p in pieces if isinstance(p, Skipped)] == [
        "attachments of messages",
        *["thoughts or tool calls of a model"] * 2,
    ]


def test_what_is_no_conversation_is_an_error(write: Write) -> None:
    path = write({"c.json": '[{"chat_messages": []}, {"uuid": 5}]'}) / "c.json"
    with pytest.raises(DataError, match=r"c\.json:2: expected a conversation"):
        list(read(path, Reading()))


@pytest.mark.parametrize("text", ["", "[]", '[{"uuid": "1"}]', '"chat_messages"'])
def test_leaves_other_json_alone(text: str) -> None:
    assert not matches(FileHead("conversations.json", text.encode(), len(text)))
