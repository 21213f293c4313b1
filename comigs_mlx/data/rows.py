"""Rows of JSONL files and datasets, checked against mlx-lm's three formats.

The columns say which format it is, looked for in mlx-lm's order: prompt and completion,
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
from comigs_mlx.data.splits import Placed, Sample, texts
from comigs_mlx.errors import DataError

COLUMNS = (("prompt", "completion"), ("messages",), ("text",))
"""The columns of each format, in the order they are looked for."""


ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles that may speak in a conversation."""

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
"""The roles that some families' chat templates know as well."""

NICKNAMES = {
    **dict.fromkeys(("human", "prompter", "question", "customer"), "user"),
    **dict.fromkeys(("bot", "gpt", "model", "ai", "chatbot", "agent"), "assistant"),
}
"""The names of other data formats for these roles; errors suggest the role, and do not
accept the name.
"""

DEPTH = 50
"""The most levels that objects and lists may be nested; no template uses deeper ones.
"""


@dataclass(frozen=True)
class Rows:
    """The samples and problems that were read from rows.

    Attributes:
        samples: The samples of valid rows, each with its place.
        problems: The problems found, as one sentence each.
        blank: The number of rows that were skipped because they hold nothing to learn.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    blank: int = 0

    @property
    def notes(self) -> list[str]:
        """Tell the user what was skipped."""
        rows = "row" if self.blank == 1 else "rows"
        return [f"skipped {self.blank} {rows} without text"] if self.blank else []


def parsed(line: str) -> Any:
    """Return what a line of JSON holds, or a `DataError` if it cannot be parsed."""
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
    """Make an object, and refuse a key that stands there twice: one would be lost."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {json.dumps(twice)} stands there twice")
    return unique


def read_rows(rows: Iterable[tuple[str, Any]]) -> Rows:
    """Turn rows into samples; the first row decides which columns all must have.

    Args:
        rows: Pairs of a place, such as "train.jsonl:3", and what stands there: the
            parsed row, or a `DataError` if it could not be parsed.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    columns: tuple[str, ...] | None = None
    blank = 0
    for place, row in rows:
        row = _normalised(row)
        columns = columns or columns_of(row)
        row_problems = _problems(row, columns)
        problems += [f"{place}: {problem}" for problem in row_problems]
        if row_problems or not columns:
            continue
        sample = _sample(row, columns)
        if _is_empty(sample):
            blank += 1
        else:
            samples.append(Placed(sample, place))
    return Rows(samples, problems, blank)


def _normalised(row: Any) -> Any:
    """Give the messages of a row the one spelling that templates know."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list):
        return row
    spelled = [tool_calls.normalised(m) if isinstance(m, dict) else m for m in messages]
    return {**row, "messages": spelled}


def _is_empty(sample: Sample) -> bool:
    """Tell whether a sample holds nothing to learn."""
    if any(message.get("tool_calls") for message in sample.get("messages", [])):
        return False
    return all(map(is_blank, texts(sample)))


def columns_of(row: Any) -> tuple[str, ...] | None:
    """Return the columns that say of which format a row is; None where none do."""
    keys = row if isinstance(row, dict) else {}
    return next((names for names in COLUMNS if all(n in keys for n in names)), None)


def _problems(row: Any, columns: tuple[str, ...] | None) -> list[str]:
    if isinstance(row, DataError):
        return [str(row)]
    if not isinstance(row, dict):
        return [f"expected an object, found {_type(row)}"]
    if columns is None or any(name not in row for name in columns):
        accepted = [columns] if columns else list(COLUMNS)
        expected = ", or ".join(" and ".join(names) for names in accepted)
        why = ", like the first row" if columns else " (--columns names others)"
        return [f"found {_keys(row)}: expected {expected}{why}"]
    if columns != ("messages",):
        problems = [*_string_problems(row, columns), *_tools_problems(row)]
    else:
        problems = _message_problems(row["messages"]) + _tools_problems(row)
    return problems or _nested_problems(_sample(row, columns))


def _message_problems(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return [f"expected a list of messages, found {_type(messages)}"]
    problems: list[str] = []
    for number, message in enumerate(messages, 1):
        of_message = _one_message_problems(message)
        problems += [f"message {number}: {problem}" for problem in of_message]
    return problems


def _one_message_problems(message: Any) -> list[str]:
    if not isinstance(message, dict):
        return [f"expected an object, found {_type(message)}"]
    # An assistant that only calls tools says nothing.
    silent = bool(message.get("tool_calls")) and message.get("content") is None
    required = ("role",) if silent else ("role", "content")
    if any(name not in message for name in required):
        return [f"found {_keys(message)}: expected role and content"]
    return _string_problems(message, required) or _role_problems(message["role"])


def _role_problems(role: str) -> list[str]:
    if role in ROLES or role in OTHER_ROLES:
        return []
    plain = role.strip().lower()
    near = difflib.get_close_matches(NICKNAMES.get(plain, plain), ROLES, 1)
    suggestion = near[0] if near else f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"
    return [f"role is {json.dumps(role, ensure_ascii=False)}: expected {suggestion}"]


def _nested_problems(sample: Sample) -> list[str]:
    """Find what templates and digests cannot take, however deep it lies."""
    waiting: list[tuple[Any, int]] = [(sample, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEPTH:
            return ["it is too deeply nested"]
        if isinstance(value, str) and not _is_text(value):
            return ["there is a string with half a character: expected UTF-8 text"]
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
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
    """Tell whether UTF-8 can hold `value`, a string; JSON allows half characters."""
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
