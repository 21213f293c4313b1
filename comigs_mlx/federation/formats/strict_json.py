"""Reads JSON from strangers strictly, and shows foreign text safely."""

from __future__ import annotations

import json
import math
import typing
from typing import Any

from comigs_mlx.errors import FederationError

DIGITS = 18
"""The digits of the longest integer accepted; every count of ours has fewer."""

DEPTH = 8
"""The most levels of nesting; our deepest file has 4."""


def shown(value: Any) -> str:
    """Escape a foreign value for a message, and shorten it to 40 characters."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def visible(text: str) -> str:
    """Escape the invisible characters in a foreign line of text.

    Characters that change the direction of writing can make a line read as another.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def parse(content: bytes | str, most: int) -> Any:
    """Parse the JSON value in `content`.

    It refuses more than `most` bytes, deep nesting, a key given twice, NaN and
    infinities, integers of more than 18 digits, and text that is not UTF-8.

    Raises:
        FederationError: If it refuses the content; the text says why in a few words.
    """
    if len(content) > most:
        raise FederationError(f"{len(content)} bytes of JSON, at most {most}")
    try:
        value = json.loads(
            content.decode() if isinstance(content, bytes) else content,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
        _check_depth(value)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
    except RecursionError:
        raise FederationError("JSON nested too deeply") from None
    except ValueError as error:
        raise FederationError(f"not valid JSON: {shown(str(error))}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise FederationError("a JSON object has one key twice")
    return unique


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise FederationError(f"an integer of more than {DIGITS} digits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise FederationError("a number too large")
    return number


def _constant(text: str) -> typing.NoReturn:
    raise FederationError(f"{text} is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise FederationError("JSON nested too deeply")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def canonical(value: Any) -> bytes:
    """Write JSON that has one form only: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
