from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.telegram import matches, read
from comigs_mlx.data.pieces import HEAD, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def message(number: int, sender: int, text: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "type": "message",
        "date": "2024-01-01T10:00:00",
        "date_unixtime": str(1_704_099_600 + number),
        "from": "AB"[sender - 1],
        "from_id": f"user{sender}",
        "text": text,
        **fields,
    }


SERVICE = {"id": 9, "type": "service", "actor": "A", "action": "phone_call"}


def chat(kind: str, *messages: Any, number: int = 2) -> dict[str, Any]:
    return {"name": "B", "type": kind, "id": number, "messages": list(messages)}


ALL_CHATS = {
    "about": "Here is the data you requested.",
    "personal_information": {"user_id": 1, "first_name": "A"},
    "contacts": {"list": [{"first_name": "B"}]},
    "chats": {
        "about": "all of them",
        "list": [
            chat("private_group", message(1, 2, "a"), message(2, 1, "b"), number=7),
            chat("personal_chat", message(1, 1, "c")),
        ],
    },
    "left_chats": {"about": "", "list": [chat("private_group", message(1, 2, "d"))]},
}

SAMPLES = {
    "result.json": json.dumps(chat("saved_messages", message(1, 2, "hi")), indent=1),
    "all/result.json": json.dumps(ALL_CHATS, indent=1),
}


@pytest.fixture
def export(write: Write) -> Callable[[Any], list[Piece]]:
    def pieces(content: Any) -> list[Piece]:
        path = write({"result.json": json.dumps(content, indent=1)}) / "result.json"
        raw = path.read_bytes()
        assert matches(FileHead(str(path), raw[:HEAD], len(raw)))
        return list(read(path, Reading()))

    return pieces


Export = Callable[[Any], list[Piece]]


def spoken(pieces: list[Piece]) -> list[tuple[str, str, bool | None, str]]:
    return [
        (p.speaker, p.text, p.by_me, p.thread) for p in pieces if isinstance(p, Message)
    ]


def test_text_is_a_string_or_pieces_and_the_rest_is_counted(export: Export) -> None:
    pieces = export(
        chat(
            "personal_chat",
            SERVICE,
            message(1, 2, "hi"),
            message(2, 1, ["see ", {"type": "link", "text": "https://x.org"}, "!"]),
            message(3, 2, "", photo="photo.jpg"),
            message(4, 1, "not mine", forwarded_from="C"),
            message(5, 1, ""),
        )
    )
    # A private chat bears the number of the other one.
    assert spoken(pieces) == [
        ("B", "hi", False, "1"),
        ("A", "see https://x.org!", True, "1"),
    ]
    assert [p.what for p in pieces if isinstance(p, Skipped)] == [
        "service messages",
        "media without text",
        "forwarded messages",
        "media without text",
    ]
    assert [p.time for p in pieces if isinstance(p, Message)] == [
        1_704_099_601,
        1_704_099_602,
    ]


def test_an_export_of_all_chats_names_my_account(export: Export) -> None:
    assert spoken(export(ALL_CHATS)) == [
        ("B", "a", False, "1"),
        ("A", "b", True, "1"),
        ("A", "c", True, "2"),
        ("B", "d", False, "3"),
    ]


@pytest.mark.parametrize(
    ("kind", "number", "by_me"),
    [
        ("private_group", 7, [None, None]),
        ("personal_chat", 7, [None, None]),  # neither writer is the other one
        ("saved_messages", 1, [True, False]),
    ],
)
def test_one_chat_alone_tells_who_i_am_only_where_it_can(
    kind: str, number: int, by_me: list[bool | None], export: Export
) -> None:
    pieces = export(chat(kind, message(1, 1, "x"), message(2, 2, "y"), number=number))
    assert [p.by_me for p in pieces if isinstance(p, Message)] == by_me


def test_deleted_accounts_have_their_number(export: Export) -> None:
    gone = {**message(1, 1, "x"), "from": None}
    assert spoken(export(chat("private_group", gone)))[0][0] == "user1"


@pytest.mark.parametrize("end", [1, 40, 200])
def test_a_cut_file_is_an_error_with_its_line(end: int, write: Write) -> None:
    whole = json.dumps(chat("personal_chat", message(1, 2, "hi")), indent=1)
    path = write({"r.json": whole[:-end]}) / "r.json"
    with pytest.raises(DataError, match=r"r\.json:\d+: expected JSON: .*cut off"):
        list(read(path, Reading()))


def test_a_file_without_chats_is_an_error(write: Write) -> None:
    path = write({"r.json": '{"about": "", "chats": {"list": []}}'}) / "r.json"
    with pytest.raises(DataError, match="expected chats with messages"):
        list(read(path, Reading()))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"type": "module"}', '{"name": "x", "messages": []}']
)
def test_leaves_other_json_alone(text: str) -> None:
    assert not matches(FileHead("result.json", text.encode(), len(text)))
