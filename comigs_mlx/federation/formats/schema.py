"""Reads frozen dataclasses from strict JSON and writes them; nothing is guessed.

A record is a frozen dataclass. Its fields' annotations say what the JSON must hold
(numbers, text, Literal, None, tuple, Mapping, records), `item` says more about one
field (or limits that `expert_shape` declares as data), and a method `problems` may
check fields against each other. All problems are gathered and raised once. Foreign text
is shortened and escaped in messages.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from comigs_mlx.errors import FederationError, raise_all
from comigs_mlx.federation.formats.strict_json import parse, shown

T = TypeVar("T")
Check = Callable[[Any], str | None]
"""Takes a value of the right type; returns what is wrong with it, or None."""

FORMAT_VERSION = 1


def item(check: Check | None = None, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field of a record with a check; without a default it is required."""
    metadata = {"check": check}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def between(low: float, high: float) -> Check:
    """Check that a number is from `low` to `high`; None passes."""
    return lambda value: (
        None
        if value is None or low <= value <= high
        else f"{shown(value)} is not from {low} to {high}"
    )


def matching(pattern: str, description: str) -> Check:
    """Check that a text matches the whole pattern; None passes."""
    compiled = re.compile(pattern)
    return lambda value: (
        None
        if value is None or compiled.fullmatch(value)
        else f"{shown(value)} is not {description}"
    )


def each(check: Check, most: int) -> Check:
    """Check that there are at most `most` entries, and that `check` passes each (or
    each key).
    """

    def check_all(values: Any) -> str | None:
        if values is None:
            return None
        if len(values) > most:
            return f"{len(values)} entries, at most {most}"
        return next((wrong for value in values if (wrong := check(value))), None)

    return check_all


def read(kind: type[T], content: bytes | str, what: str, most: int) -> T:
    """Read a record of class `kind` from the JSON `content`.

    Args:
        kind: The class of the record.
        content: The content of the file.
        what: The name of the file, for messages.
        most: The most bytes that the file may have.

    Raises:
        FederationError: If the JSON is not strict or of another format version; or for
            all unknown, missing and wrong entries at once.
    """
    try:
        value = parse(content, most)
    except FederationError as error:
        raise FederationError(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise FederationError(f"{what} is not a JSON object")
    version = value.pop("format_version", None)
    if type(version) is not int or version != FORMAT_VERSION:
        raise FederationError(
            f"{what} has format version {shown(version)}, this version of comigs_mlx "
            f"reads {FORMAT_VERSION}: update comigs_mlx, or ask who wrote the file"
        )
    problems: list[str] = []
    record: T = _build(kind, value, "", problems)
    raise_all(FederationError, [f"{what}: {problem}" for problem in problems])
    return record


def to_dict(record: Any) -> dict[str, Any]:
    """Return the JSON object of a record, with its format version.

    Fields in the record's `NEWER`, which earlier versions refuse to read, are left out
    where they are None.
    """
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(record)}
    newer = getattr(record, "NEWER", ())
    return {k: v for k, v in values.items() if v is not None or k not in newer}


def write(record: Any, what: str, most: int) -> bytes:
    """Write the record as indented JSON with sorted keys: equal records, equal bytes.

    Raises:
        FederationError: If `read` would refuse it.
    """
    text = json.dumps(to_dict(record), indent=2, sort_keys=True)
    content = (text + "\n").encode()
    read(type(record), content, what, most)
    return content


def _build(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Build `kind` from `value`; add what is wrong to `problems`, then the result
    is void.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where, problems)
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_build(inner, v, f"{where}[]", problems) for v in value)
    if origin is collections.abc.Mapping and isinstance(value, dict):
        inner = typing.get_args(kind)[1]
        places = {key: f"{where}.{_place(key)}" for key in value}
        return {k: _build(inner, v, places[k], problems) for k, v in value.items()}
    return _scalar(kind, value, where, problems)


def _scalar(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if not isinstance(value, str) or value not in choices:
            problems.append(f"{where}: {shown(value)} is none of {', '.join(choices)}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is not Any and type(value) is not kind:
        problems.append(f"{where}: expected {_called(kind)}, got {shown(value)}")
    return value


def _record(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{where}: expected an object, got {shown(value)}")
        return None
    fields = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    unknown = [f"{prefix}{_place(key)}" for key in value if key not in fields]
    values, wrong = {}, list(_missing(fields, value, prefix))
    for name, hint in _hints(kind).items():
        if name in fields and name in value:
            values[name] = _checked(
                fields[name], hint, value[name], prefix + name, wrong
            )
    problems += [f"unknown entry {name}" for name in unknown] + wrong
    if wrong:
        return None
    record = kind(**values)
    if hasattr(record, "problems"):
        problems += [f"{prefix}{problem}" for problem in record.problems()]
    return record


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of `kind`, which Python evaluates anew at
    every call.
    """
    return typing.get_type_hints(kind)


def _missing(
    fields: Mapping[str, Any], value: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in value:
            yield f"{prefix}{name} is missing"


def _checked(field: Any, hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    own_problems: list[str] = []
    built = _build(hint, value, where, own_problems)
    check = _check(field.metadata)
    if not own_problems and check is not None and (wrong := check(built)):
        own_problems.append(f"{where}: {wrong}")
    problems += own_problems
    return built


def _check(about: Mapping[str, Any]) -> Check | None:
    """The check of a field: one that `item` was given, or limits declared as data."""
    if "range" in about:
        return between(*about["range"])
    if "each" in about:
        pattern, what, most = about["each"]
        return each(matching(pattern, what), most)
    check: Check | None = about.get("check")
    return check


def _place(key: str) -> str:
    """Write a key for a message: unchanged if it is a plain word."""
    return key if re.fullmatch(r"[\w./-]{1,80}", key, re.ASCII) else shown(key)


def _called(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true/false"}
    if typing.get_origin(kind) is tuple:
        return "a list"
    return names.get(kind, "an object")
