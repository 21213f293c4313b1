"""Claude's export: conversations.json with chat_messages.

A message is made of blocks, of which text is read: no thoughts, tool calls, nor files
that were attached. Older exports have one text instead of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import array, text
from comigs_mlx.data.pieces import FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 34
"""This format is tried before those that read any JSON."""

KIND = "Claude"
"""The word of the report."""

SPEAKERS = {"human": "you", "assistant": "Claude"}
"""The names of the two senders."""


def matches(file: FileHead) -> bool:
    """Tell whether a file holds conversations made of chat_messages."""
    return file.is_json_with(b'"uuid"', b'"chat_messages"')


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of each conversation.

    Raises:
        DataError: If the file is not JSON, or an item is no conversation.
    """
    del reading
    for number, conversation in array(path):
        place = f"{path}:{number}"
        messages = (
            conversation.get("chat_messages")
            if isinstance(conversation, dict)
            else None
        )
        if not isinstance(messages, list):
            raise DataError(f"{place}: expected a conversation with chat_messages")
        for message in messages:
            if isinstance(message, dict) and message.get("sender") in SPEAKERS:
                yield from _pieces(message, f"{number}", place)


def _pieces(message: dict[str, Any], thread: str, place: str) -> Iterator[Piece]:
    if message.get("attachments") or message.get("files"):
        yield Skipped("attachments of messages", place)
    blocks = message.get("content")
    said = []
    for block in blocks if isinstance(blocks, list) else []:
        if isinstance(block, dict) and block.get("type") == "text":
            said.append(text(block.get("text")))
        else:
            yield Skipped("thoughts or tool calls of a model", place)
    # Blocks are complete where there are any; `text` then names what it cannot show.
    joined = "\n".join(filter(None, said)) if blocks else text(message.get("text"))
    if joined:
        sender = message["sender"]
        yield Message(
            SPEAKERS[sender],
            joined,
            place,
            thread,
            _time(message.get("created_at")),
            by_me=sender == "human",
            by_model=sender == "assistant",
        )


def _time(written: Any) -> float | None:
    try:
        return datetime.fromisoformat(written).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
