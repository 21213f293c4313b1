"""Rows of JSONL files and datasets, checked against mlx-lm's three formats.

The columns say which one it is, looked for in mlx-lm's order: prompt and completion,
messages (optionally tools), text. Other columns are ignored, as mlx-lm does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comigs_mlx.data.splits import Sample
from comigs_mlx.errors import DataError

COLUMNS = (("prompt", "completion"), ("messages",), ("text",))
"""The columns of each format, in the order they are looked for."""


def read_rows(rows: Iterable[tuple[str, Any]]) -> tuple[list[Sample], list[str]]:
    """Turn rows into samples; the first one decides which columns all must have.

    Args:
        rows: Pairs of a place, such as "train.jsonl:3", and what stands there; a
            `DataError` for what could not be parsed.

    Returns:
        The samples of the valid rows, and one sentence for each problem.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    columns: tuple[str, ...] | None = None
    for place, row in rows:
        columns = columns or _columns(row)
        found = _problems(row, columns)
        problems += [f"{place}: {problem}" for problem in found]
        if not found and columns:
            samples.append(_sample(row, columns))
    return samples, problems


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
    if columns == ("messages",):
        return _message_problems(row["messages"]) + _tools_problems(row)
    return [*_string_problems(row, columns), *_tools_problems(row)]


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
    return _string_problems(message, needed)


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
