"""Signal's own plain-text export of all chats: main.jsonl.

Each line is one frame of a backup: a recipient, a chat, or an item of a chat. Each item
says whether it came in or went out, so it is known who I am.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import opened, text
from comigs_mlx.data.pieces import FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 38
"""This format is tried before other JSONL."""

KIND = "Signal"
"""The word of the report."""

FRAME = re.compile(rb'^\{"(?:recipient|chatItem)": ?\{', re.MULTILINE)
"""The beginning of a frame; no other frame says as surely whose it is."""

NAMES = (
    "systemGivenName systemFamilyName",
    "profileGivenName profileFamilyName",
    "username",
    "e164",
)
"""The fields of a contact that name it, the best ones first."""


def matches(file: FileHead) -> bool:
    """Tell whether a file has frames of a backup."""
    return file.head.startswith(b"{") and FRAME.search(file.head) is not None


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of all chats.

    Raises:
        DataError: If a line is no JSON object.
    """
    del reading
    names: dict[str, str] = {}
    for place, frame in _frames(path):
        if isinstance(recipient := frame.get("recipient"), dict):
            names[f"{recipient.get('id')}"] = _name(recipient)
        elif isinstance(item := frame.get("chatItem"), dict):
            yield _piece(item, names, place)


def _frames(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    with opened(path) as file:
        try:
            for number, line in enumerate(file, 1):
                frame = json.loads(line) if line.strip() else {}
                if not isinstance(frame, dict):
                    raise ValueError("no object")
                yield f"{path}:{number}", frame
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number or 1}: expected one JSON object: export it again"
            ) from error


def _name(recipient: dict[str, Any]) -> str:
    contact = recipient.get("contact")
    contact = contact if isinstance(contact, dict) else {}
    for fields in NAMES:
        parts = [text(f"{contact.get(field) or ''}") for field in fields.split()]
        if any(parts):
            return " ".join(filter(None, parts))
    return f"Recipient {recipient.get('id')}"


def _piece(item: dict[str, Any], names: dict[str, str], place: str) -> Piece:
    by_me = "outgoing" in item
    if not by_me and "incoming" not in item:
        return Skipped("service messages", place)
    message = item.get("standardMessage")
    body = message.get("text") if isinstance(message, dict) else None
    said = text(body.get("body")) if isinstance(body, dict) else ""
    if not said:
        return Skipped("media without text", place)
    author = f"{item.get('authorId')}"
    speaker = "Me" if by_me else names.get(author, f"Recipient {author}")
    chat = f"{item.get('chatId')}"
    return Message(speaker, said, place, chat, _time(item), by_me=by_me)


def _time(item: dict[str, Any]) -> float | None:
    try:
        return int(item["dateSent"]) / 1000
    except (KeyError, TypeError, ValueError):
        return None
