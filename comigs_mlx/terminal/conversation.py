"""A conversation that can be taken back, saved to a file and read again.

The file is one JSON object:

    {"format_version": 1, "messages": [{"role", "content"}...], "run", "model",
     "experts", "lean"}

Its messages are mlx-lm's, the system prompt first: under a name that ends in .jsonl it
stands on one line and is chat data for `--data`. What follows the messages tells who
answered last, and is not read again. The file is yours: it is written for you alone
(mode 0600), whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError, reading
from comigs_mlx.files import replacing, unwritable
from comigs_mlx.inference.prompts import TURNS, check_text
from comigs_mlx.inference.replies import Message

FORMAT = 1

MOST_BYTES = 64 * 2**20
"""The size of the largest file that is read."""

ADVICE = "give a file that /save has written"


@dataclass
class Conversation:
    """What has been said.

    Attributes:
        system: The system prompt; None for none.
        messages: The turns of user and assistant, in order.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a message of the user."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add an answer."""
        self.messages.append({"role": "assistant", "content": text})

    def unanswer(self) -> bool:
        """Take back what follows the user's last message; whether there is one."""
        while self.messages and self.messages[-1]["role"] != "user":
            self.messages.pop()
        return bool(self.messages)

    def undo(self) -> bool:
        """Take back the user's last message and its answer; whether there was one."""
        if found := self.unanswer():
            self.messages.pop()
        return found


def save(conversation: Conversation, file: Path, facts: Mapping[str, Any]) -> None:
    """Write a conversation to a file.

    Args:
        conversation: The conversation to write.
        file: The file; it may be an older conversation, and nothing else.
        facts: The values that are written besides, by name.

    Raises:
        ConfigError: If the file cannot be written, or is something else.
    """
    if (problem := unwritable(file)) is not None:
        raise ConfigError(f"{file}: {problem}")
    if file.exists():
        try:
            load(file)
        except ConfigError as error:
            raise ConfigError(
                f"{file} is there and is no conversation: choose another name"
            ) from error
    system = conversation.system
    first = [] if system is None else [{"role": "system", "content": system}]
    turns = [*first, *conversation.messages]
    content = {"format_version": FORMAT, "messages": turns, **facts}
    with replacing(file) as temporary:
        temporary.chmod(0o600)  # while it is still empty
        indent = None if file.suffix == ".jsonl" else 2
        temporary.write_text(_json(content, indent), encoding="utf-8")


def _json(content: Any, indent: int | None) -> str:
    """JSON that people can read and that no terminal obeys when it is shown."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return re.sub("[\x7f-\x9f]", lambda at: f"\\u{ord(at[0]):04x}", text) + "\n"


def load(file: Path) -> Conversation:
    """Read a conversation again.

    Args:
        file: A file of `save`, or another object with mlx-lm's `messages`.

    Raises:
        ConfigError: If it cannot be read, or is no conversation.
    """
    with reading(file, ConfigError, ADVICE):
        if file.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        version = content.get("format_version", FORMAT)
        turns = content["messages"]
        if not isinstance(turns, list):
            raise ValueError("its messages are no list")
    if version != FORMAT:
        raise ConfigError(f"{file} has format {version}, not {FORMAT}: update")
    try:
        found = [_message(turn) for turn in turns]
    except ConfigError as error:
        raise ConfigError(f"cannot read {file} ({error}): {ADVICE}") from error
    system = found.pop(0)["content"] if found and found[0]["role"] == "system" else None
    if any(turn["role"] not in TURNS for turn in found):
        raise ConfigError(
            f"cannot read {file} (a message is neither the user's nor the "
            f"assistant's): {ADVICE}"
        )
    return Conversation(system, found)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise ConfigError("a message has no role")
    check_text(turn.get("content"), f"a message of the {turn['role']}")
    return {"role": turn["role"], "content": turn["content"]}
