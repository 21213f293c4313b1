"""What signal-export writes of Signal Desktop: chat.md, and data.json line by line.

Its folders hold the same messages as Markdown, as JSON and as a page. The JSON is read
where it is there, as it keeps quotes apart from what was said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import text
from comigs_mlx.data.pieces import Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading import read_utf8
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 35
"""This format is tried before WhatsApp, Markdown and pages."""

KIND = "Signal"
"""The word of the report."""

HEADER = re.compile(
    r"\[(\d{4}-\d\d-\d\d,? \d\d:\d\d(?::\d\d)?)\] ((?:(?!: ?).)+): ?(.*)"
)
"""The first line of a message in Markdown."""

KEYS = (b'"sender": ', b'"body": ', b'"quote": ', b'"reactions": ')
"""The keys of a message in JSON, beside the date."""

QUOTE = re.compile(r"\A\n*(?:>.*\n?)+")
MEDIA = re.compile(r"!?\[[^\]\n]*\]\(\.{1,2}/[^)\n]*\) *")
STICKER = re.compile(r"\n\(\( .* \)\)")
REACTIONS = re.compile(r"\n\(- .+: .+ -\)")
CALL = re.compile(r"(?:Incoming|Outgoing|Missed)(?: voice| video| group)? call.*")
DELETED = "(This message was deleted)"
NOBODY = "No-Sender"
"""The sender of what Signal itself notes."""


def matches(file: FileHead) -> bool:
    """Tell whether a file is one of the three that signal-export writes of a chat."""
    path = Path(file.path)
    if path.name == "index.html":
        return _is_markdown(path.with_name("chat.md"))
    return _is_json_line(file.head) or _is_head(file.head, path)


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of a chat, once for its three files.

    Raises:
        DataError: If a line is no message.
    """
    del reading
    if path.name != "data.json" and _is_json_line(_head(path.with_name("data.json"))):
        yield Skipped("files that hold what data.json beside them does", str(path))
    elif path.name == "index.html":
        yield Skipped("files that hold what chat.md beside them does", str(path))
    else:
        content = read_utf8(path)
        is_json = content.lstrip().startswith("{")
        rows = _json_rows(path, content) if is_json else _markdown_rows(path, content)
        for place, row in rows:
            yield from _pieces(place, row)


def _is_head(head: bytes, path: Path) -> bool:
    line = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    fits = HEADER.match(line.decode("utf-8", "replace")) is not None
    # WhatsApp has such lines too, in some countries.
    return fits and (path.suffix.lower() == ".md" or b"] Me: " in head)


def _is_markdown(path: Path) -> bool:
    return _is_head(_head(path), path)


def _is_json_line(head: bytes) -> bool:
    first = head.partition(b"\n")[0]
    return first.startswith(b'{"date": ') and all(key in first for key in KEYS)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


Row = dict[str, Any]


def _json_rows(path: Path, content: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not {"date", "sender", "body"} <= row.keys():
            raise DataError(
                f"{path}:{number}: expected a message with date, sender and body"
            )
        yield f"{path}:{number}", row


def _markdown_rows(path: Path, content: str) -> Iterator[tuple[str, Row]]:
    place, row = "", Row()
    for number, line in enumerate(content.split("\n"), 1):
        if match := HEADER.match(line):
            if row:
                yield place, row
            place = f"{path}:{number}"
            row = {"date": match[1], "sender": match[2], "body": match[3]}
        elif row:
            row["body"] += f"\n{line}"
        elif line.strip():
            raise DataError(f"{path}:{number}: expected [DATE] SENDER: TEXT")
    if row:
        yield place, row


def _pieces(place: str, row: Row) -> Iterator[Piece]:
    sender, said = text(row["sender"]), text(row["body"])
    if row.get("deleted") or said == DELETED:
        yield Skipped("deleted messages", place)
    elif sender == NOBODY or row.get("call") or CALL.fullmatch(said):
        yield Skipped("calls or service messages", place)
    else:
        bare, cuts = _bare(row["body"] if isinstance(row["body"], str) else "", place)
        yield from cuts
        if bare:
            yield Message(
                sender, bare, place, "", _time(row["date"]), by_me=sender == "Me"
            )
        else:
            yield Skipped("media without text", place)


def _bare(body: str, place: str) -> tuple[str, Iterable[Cut]]:
    """Take quotes, stickers, reactions and links to media off a message."""
    cuts = []
    for what, pattern in (
        ("reactions", REACTIONS),
        ("stickers", STICKER),
        ("links to media", MEDIA),
        ("quotes", QUOTE),
    ):
        shorter = pattern.sub("", body)
        if len(shorter) < len(body):
            cuts.append(Cut(what, len(body) - len(shorter), place))
        body = shorter
    lines = (line.rstrip() for line in body.split("\n"))
    return text("\n".join(lines)), cuts


def _time(date: Any) -> float | None:
    try:
        parsed = datetime.fromisoformat(str(date).replace(",", ""))
    except ValueError:
        return None
    return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp()
