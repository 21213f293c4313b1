from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.signal_backup import read
from comigs_mlx.data.pieces import Message, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def item(author: int, way: str, message: Any, **fields: Any) -> dict[str, Any]:
    frame = {"chatId": "7", "authorId": f"{author}", "dateSent": "1704099600000"}
    return {"chatItem": {**frame, way: {}, **fields, **message}}


def says(body: str) -> dict[str, Any]:
    return {"standardMessage": {"text": {"body": body}, "quote": {"text": "old"}}}


FRAMES = [
    {"version": "1", "backupTimeMs": "1704099600000"},
    {"account": {"givenName": "Ann"}},
    {"recipient": {"id": "1", "self": {}}},
    {"recipient": {"id": "2", "contact": {"profileGivenName": "Ben", "e164": "49170"}}},
    {"recipient": {"id": "3", "contact": {"e164": "49171"}}},
    {"recipient": {"id": "4", "group": {}}},
    {"chat": {"id": "7", "recipientId": "4"}},
    item(2, "incoming", says("hi")),
    item(1, "outgoing", says("hello")),
    item(3, "incoming", says("who?")),
    item(2, "incoming", {"standardMessage": {"attachments": [{}]}}),
    item(2, "incoming", {"remoteDeletedMessage": {}}),
    item(2, "directionless", {"updateMessage": {}}),
]

SAMPLES = {"main.jsonl": "".join(json.dumps(frame) + "\n" for frame in FRAMES)}


def test_items_know_their_direction_and_authors_their_names(write: Write) -> None:
    pieces = list(read(write(SAMPLES) / "main.jsonl", Reading()))
    assert [
        (p.speaker, p.text, p.by_me, p.thread, p.time)
        for p in pieces
        if isinstance(p, Message)
    ] == [
        ("Ben", "hi", False, "7", 1_704_099_600),
        ("Me", "hello", True, "7", 1_704_099_600),
        ("49171", "who?", False, "7", 1_704_099_600),
    ]
    assert [p.what for p in pieces if isinstance(p, Skipped)] == [
        "media without text",
        "media without text",
        "service messages",
    ]


def test_a_broken_line_is_an_error(write: Write) -> None:
    path = write({"main.jsonl": SAMPLES["main.jsonl"][:-20]}) / "main.jsonl"
    with pytest.raises(DataError, match=r"main\.jsonl:13: expected one JSON object"):
        list(read(path, Reading()))
