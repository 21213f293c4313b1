"""Rows of JSONL files and datasets, checked against mlx-lm's three formats.

The columns say which one it is, looked for in mlx-lm's order: prompt and completion,
messages (optionally tools), text. Other columns are ignored, as mlx-lm does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.data import tool_calls
from comigs_mlx.data.reading import is_blank
from comigs_mlx.data.splits import Placed, Sample
from comigs_mlx.errors import DataError

COLUMNS = (("prompt", "completion"), ("messages",), ("text",))
"""The columns of each format, in the order they are looked for."""


ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a conversation."""

OTHER_ROLES = (
    "function",
    "ipython",
    "environment",
    "observation",
    "document",
    "documents",
    "context",
    "control",
    "critic",
)
"""Names that some families' chat templates know as well."""

NICKNAMES = {
    **dict.fromkeys(("human", "prompter", "question", "customer"), "user"),
    **dict.fromkeys(("bot", "gpt", "model", "ai", "chatbot", "agent"), "assistant"),
}
"""What other formats call them; they are named in errors, not accepted."""

DEPTH = 50
"""How deep objects and lists may lie in each other: deeper ones end in no template."""


@dataclass(frozen=True)
class Rows:
    """What was read of rows.

    Attributes:
        samples: Those of valid rows, each with its place.
        problems: The problems found, as one sentence each.
        blank: Rows that were skipped, for there is nothing in them to learn.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    blank: int = 0

    @property
    def notes(self) -> list[str]:
        """What was skipped, for the user."""
        rows = "row" if self.blank == 1 else "rows"
        return [f"skipped {self.blank} {rows} without text"] if self.blank else []


def parsed(line: str) -> Any:
    """What a line of JSON holds; a `DataError` for what cannot be parsed."""
    try:
        return json.loads(line, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        reason = error.msg
    except RecursionError:
        reason = "too deeply nested"
    except DataError as error:
        reason = str(error)
    except ValueError:  # what Python says of numbers with thousands of digits
        reason = "a number has too many digits"
    return DataError(f"expected one JSON object: {reason}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys stands there twice: one would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {json.dumps(twice)} stands there twice")
    return made


def read_rows(rows: Iterable[tuple[str, Any]]) -> Rows:
    """Turn rows into samples; the first one decides which columns all must have.

    Args:
        rows: Pairs of a place, such as "train.jsonl:3", and what stands there; a
            `DataError` for what could not be parsed.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    columns: tuple[str, ...] | None = None
    blank = 0
    for place, row in rows:
        row = _normalised(row)
        columns = columns or _columns(row)
        found = _problems(row, columns)
        problems += [f"{place}: {problem}" for problem in found]
        if found or not columns:
            continue
        sample = _sample(row, columns)
        if _is_empty(sample):
            blank += 1
        else:
            samples.append(Placed(sample, place))
    return Rows(samples, problems, blank)


def _normalised(row: Any) -> Any:
    """The row with its messages in the one spelling that templates know."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list):
        return row
    known = [tool_calls.normalised(m) if isinstance(m, dict) else m for m in messages]
    return {**row, "messages": known}


def _is_empty(sample: Sample) -> bool:
    """Whether there is nothing in a sample to learn."""
    messages = sample.get("messages", [])
    if any(message.get("tool_calls") for message in messages):
        return False
    texts = [message.get("content") or "" for message in messages]
    texts += [
        sample[name] for name in ("text", "prompt", "completion") if name in sample
    ]
    return all(map(is_blank, texts))


def _columns(row: Any) -> tuple[str, ...] | None:
    keys = row if isinstance(row, dict) else {}
    return next((names for names in COLUMNS if all(n in keys for n in names)), None)


def _problems(row: Any, columns: tuple[str, ...] | None) -> list[str]:
    if isinstance(row, DataError):
        return [str(row)]
    if not isinstance(row, dict):
        return [f"expected an object, found {_type(row)}"]
    if columns is None or any(name not in row for name in columns):
        wanted = [columns] if columns else list(COLUMNS)
        expected = ", or ".join(" and ".join(names) for names in wanted)
        why = ", like the first row" if columns else ""
        return [f"found {_keys(row)}: expected {expected}{why}"]
    if columns != ("messages",):
        found = [*_string_problems(row, columns), *_tools_problems(row)]
    else:
        found = _message_problems(row["messages"]) + _tools_problems(row)
    return found or _nested_problems(_sample(row, columns))


def _message_problems(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return [f"expected a list of messages, found {_type(messages)}"]
    problems: list[str] = []
    for number, message in enumerate(messages, 1):
        found = _one_message_problems(message)
        problems += [f"message {number}: {problem}" for problem in found]
    return problems


def _one_message_problems(message: Any) -> list[str]:
    if not isinstance(message, dict):
        return [f"expected an object, found {_type(message)}"]
    # An assistant that only calls tools says nothing.
    silent = bool(message.get("tool_calls")) and message.get("content") is None
    needed = ("role",) if silent else ("role", "content")
    if any(name not in message for name in needed):
        return [f"found {_keys(message)}: expected role and content"]
    return _string_problems(message, needed) or _role_problems(message["role"])


def _role_problems(role: str) -> list[str]:
    if role in ROLES or role in OTHER_ROLES:
        return []
    plain = role.strip().lower()
    near = difflib.get_close_matches(NICKNAMES.get(plain, plain), ROLES, 1)
    wanted = near[0] if near else f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"
    return [f"role is {json.dumps(role, ensure_ascii=False)}: expected {wanted}"]


def _nested_problems(sample: Sample) -> list[str]:
    """What templates and digests choke on, however deep it lies."""
    waiting: list[tuple[Any, int]] = [(sample, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEPTH:
            return ["it is too deeply nested"]
        if isinstance(value, str) and not _is_text(value):
            return ["there is a string with half a character: expected UTF-8 text"]
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
    return []


def _string_problems(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    return [
        f"{name} is {_type(row[name])}: expected a string"
        for name in names
        if not _is_text(row[name])
    ]


def _tools_problems(row: dict[str, Any]) -> list[str]:
    if isinstance(row.get("tools"), (list, type(None))):
        return []
    return [f"tools is {_type(row['tools'])}: expected a list"]


def _sample(row: dict[str, Any], columns: tuple[str, ...]) -> Sample:
    extra = ("tools",) if columns != ("text",) and row.get("tools") else ()
    return {name: row[name] for name in (*columns, *extra)}


def _is_text(value: Any) -> bool:
    """Whether `value` is a string that UTF-8 can hold; JSON allows half characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type(value: Any) -> str:
    if isinstance(value, str):
        return "a string" if _is_text(value) else "a string with half a character"
    if isinstance(value, list) and not value:
        return "an empty list"
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _keys(row: dict[str, Any]) -> str:
    return "keys " + ", ".join(sorted(map(str, row))) if row else "no keys"
