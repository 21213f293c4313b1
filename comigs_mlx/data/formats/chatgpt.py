"""ChatGPT's export: conversations.json, or its parts conversations-000.json and so on.

Each conversation is a tree, as every edit and every second answer is a branch. The
branch that the user saw last is read, from `current_node` up to the root. Only text is:
no images, tools, system prompts, nor what the model thought.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import array, text
from comigs_mlx.data.pieces import FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 33
"""This format is tried before those that read any JSON."""

KIND = "ChatGPT"
"""The word of the report."""

SPOKEN = ("text", "multimodal_text")
"""The types of content that hold what was said."""

SPEAKERS = {"user": "you", "assistant": "ChatGPT"}
"""The names of the two roles that speak."""


def matches(file: FileHead) -> bool:
    """Tell whether a file holds conversations as trees of messages."""
    return file.is_json_with(b'"mapping"', b'"parent"', b'"children"')


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of each conversation's current branch.

    Raises:
        DataError: If the file is not JSON, or an item is no conversation.
    """
    del reading
    for number, conversation in array(path):
        place = f"{path}:{number}"
        for message in _branch(conversation, place):
            yield from _pieces(message, f"{number}", place)


def _branch(conversation: Any, place: str) -> list[dict[str, Any]]:
    """Return the messages of the current branch, the first one first."""
    nodes = conversation.get("mapping") if isinstance(conversation, dict) else None
    if not isinstance(nodes, dict):
        raise DataError(f"{place}: expected a conversation with a mapping of messages")
    at = conversation.get("current_node") or _last_leaf(nodes)
    messages: list[dict[str, Any]] = []
    seen = set()
    while isinstance(at, str) and isinstance(node := nodes.get(at), dict):
        if at in seen:
            raise DataError(f"{place}: a message is its own ancestor: export it again")
        seen.add(at)
        if isinstance(node.get("message"), dict):
            messages.append(node["message"])
        at = node.get("parent")
    return messages[::-1]


def _last_leaf(nodes: dict[str, Any]) -> str | None:
    """Return the message without an answer that was written last."""
    leaves = [
        key
        for key, node in nodes.items()
        if isinstance(node, dict) and not node.get("children")
    ]

    def written(key: str) -> float:
        message = nodes[key].get("message")
        return _time(message) or 0.0 if isinstance(message, dict) else 0.0

    return max(leaves, key=written, default=None)


def _pieces(message: dict[str, Any], thread: str, place: str) -> Iterator[Piece]:
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, dict) else None
    if role not in SPEAKERS:
        return  # nobody said it, and everybody has them
    content = content if isinstance(content, dict) else {}
    # What the model writes to a tool is code or a query.
    to_tool = message.get("recipient") not in (None, "all")
    if content.get("content_type") not in SPOKEN or to_tool:
        yield Skipped("messages without text, as to tools", place)
        return
    parts = content.get("parts")
    said = [text(part) for part in parts] if isinstance(parts, list) else []
    if joined := "\n".join(part for part in said if part):
        yield Message(
            SPEAKERS[role],
            joined,
            place,
            thread,
            _time(message),
            by_me=role == "user",
            by_model=role == "assistant",
        )
    elif said:
        yield Skipped("media without text", place)


def _time(message: dict[str, Any]) -> float | None:
    time = message.get("create_time")
    return float(time) if isinstance(time, (int, float)) else None
