"""Telegram Desktop's export as JSON: result.json of one chat, or of all of them.

The numbers of accounts tell who I am: the export of all chats names mine, and a private
chat has the number of the other one. Only in one group alone must `--me` tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import JsonStream, opened, text
from comigs_mlx.data.pieces import FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 32
"""This format is tried before those that read any JSON."""

KIND = "Telegram"
"""The word of the report."""

ONE_CHAT = re.compile(
    rb'\A\s*\{\s*(?:"[a-z_]+"\s*:\s*(?:"(?:[^"\\]|\\.)*"|-?\d+|null)\s*,\s*)*'
    rb'"type"\s*:\s*"(?:personal_chat|bot_chat|saved_messages|replies|verify_codes'
    rb'|(?:private|public)_(?:group|supergroup|channel))"'
)
"""The beginning of the export of one chat."""


def matches(file: FileHead) -> bool:
    """Tell whether a file begins as Telegram's exports do."""
    head = file.head.removeprefix(b"\xef\xbb\xbf")
    if not head.lstrip().startswith(b"{"):
        return False
    all_chats = b'"about"' in head and b'"personal_information"' in head
    return all_chats or ONE_CHAT.match(head) is not None


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of all chats.

    Raises:
        DataError: If the file is not JSON, or holds no chats.
    """
    del reading
    chats = 0
    with opened(path) as file:
        for chat, me in _chats(JsonStream(file, str(path))):
            chats += 1
            yield from _messages(chat, me, f"{path}", f"{chats}")
    if not chats:
        raise DataError(
            f"{path}: expected chats with messages: export it as JSON again"
        )


def _chats(stream: JsonStream) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield each chat, and my account's number where the export tells it."""
    me = None
    alone: dict[str, Any] = {}
    for key in stream.fields():
        if key == "personal_information":
            me = _account((stream.value() or {}).get("user_id"))
        elif key in ("chats", "left_chats") and stream.peek() == "{":
            for chat in _listed(stream):
                yield chat, me
        else:
            alone[key] = stream.value()
    if isinstance(alone.get("messages"), list):
        yield alone, _me_of(alone)


def _listed(stream: JsonStream) -> Iterator[dict[str, Any]]:
    for key in stream.fields():
        if key != "list":
            stream.value()
            continue
        for _ in stream.items():
            chat = stream.value()
            if isinstance(chat, dict) and isinstance(chat.get("messages"), list):
                yield chat


def _account(number: Any) -> str | None:
    return f"user{number}" if isinstance(number, int) else None


def _me_of(chat: dict[str, Any]) -> str | None:
    """Return my account's number in the export of one chat, if it can be told."""
    writers = {m.get("from_id") for m in chat["messages"] if isinstance(m, dict)}
    writers -= {None}
    other = _account(chat.get("id"))
    if chat.get("type") == "saved_messages":
        return other
    if chat.get("type") != "personal_chat" or other not in writers:
        return None
    mine = writers - {other}
    return mine.pop() if len(mine) == 1 else None


def _messages(
    chat: dict[str, Any], me: str | None, path: str, thread: str
) -> Iterator[Piece]:
    for number, message in enumerate(chat["messages"], 1):
        if not isinstance(message, dict):
            raise DataError(
                f"{path}:{number}: expected a message, found {message!r:.40}"
            )
        place = f"{path}:{message.get('id', number)}"
        if message.get("type") != "message":
            yield Skipped("service messages", place)
        elif "forwarded_from" in message or "saved_from" in message:
            yield Skipped("forwarded messages", place)
        elif said := _said(message.get("text")):
            sender = message.get("from_id")
            yield Message(
                text(message.get("from")) or text(sender) or "Deleted Account",
                said,
                place,
                thread,
                _time(message),
                by_me=None if me is None else sender == me,
            )
        else:
            yield Skipped("media without text", place)


def _said(content: Any) -> str:
    """Join the pieces of a text, which are strings and objects with a text."""
    pieces = content if isinstance(content, list) else [content]
    strings = [p.get("text") if isinstance(p, dict) else p for p in pieces]
    return text("".join(s for s in strings if isinstance(s, str)))


def _time(message: dict[str, Any]) -> float | None:
    try:
        if "date_unixtime" in message:
            return float(message["date_unixtime"])
        date = datetime.fromisoformat(message["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return date.replace(tzinfo=UTC).timestamp()
