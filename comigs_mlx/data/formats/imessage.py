"""Messages of macOS: chat.db in ~/Library/Messages, or a copy of it.

The database is only read: a copy is, where Messages may be writing. Most texts of the
last years stand in `attributedBody`, an archive of a styled string.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.json_stream import text
from comigs_mlx.data.mac_access import reason
from comigs_mlx.data.pieces import FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 31
"""This format is tried before all that read text."""

KIND = "iMessage"
"""The word of the report."""

MAGIC = b"SQLite format 3\0"

TABLES = frozenset({"message", "handle", "chat", "chat_message_join"})
"""The tables that tell the database of Messages from others."""

EPOCH = 978_307_200
"""The seconds from 1970 to 2001, when Apple's time begins."""

NANOSECONDS_FROM = 10**12
"""A date from here on counts nanoseconds (since macOS 10.13), below it seconds."""

REACTIONS = range(2000, 4000)
"""The types of associated messages that are reactions, set or taken back."""

COLUMNS = (
    "text",
    "attributedBody",
    "is_from_me",
    "date",
    "associated_message_type",
    "item_type",
)
"""The columns of a message that are read; old databases lack some."""


def matches(file: FileHead) -> bool:
    """Tell whether a file is a database with the tables of Messages."""
    if not file.head.startswith(MAGIC):
        return False
    try:
        with _database(Path(file.path), with_log=False) as database:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            return {name for (name,) in database.execute(query)} >= TABLES
    except (sqlite3.Error, OSError):
        return False


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of all chats by their date.

    Raises:
        DataError: If the database is damaged, or macOS does not let us read it.
    """
    del reading
    try:
        with _database(path) as database:
            for row in database.execute(_query(database)):
                yield from _pieces(path, *row)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: cannot be read ({error}): the database is damaged or cut off: "
            "quit Messages and copy chat.db, chat.db-wal and chat.db-shm again"
        ) from error


def body_text(archive: bytes) -> str | None:
    r"""Return the text of a styled string in Apple's typedstream archives.

    Behind the name of the string's class stand the type "+" (bytes), the length, and
    the text as UTF-8. A length is one byte, or 0x81 and two, or 0x82 and four.

    Args:
        archive: The archive, which begins with "\x04\x0bstreamtyped".

    Returns:
        The text; None where the archive has another form.
    """
    is_big = archive[2:13] == b"typedstream"
    name = archive.find(b"NSString")
    at = archive.find(b"\x84\x01+", name)
    if archive[2:13] not in (b"streamtyped", b"typedstream") or name < 0 or at < 0:
        return None
    at += 3
    width = {0x81: 2, 0x82: 4}.get(archive[at] if at < len(archive) else 0, 0)
    length = archive[at + 1 : at + 1 + width] if width else archive[at : at + 1]
    start = at + 1 + width
    size = int.from_bytes(length, "big" if is_big else "little")
    if not length or start + size > len(archive):
        return None
    return archive[start : start + size].decode("utf-8", "replace")


@contextlib.contextmanager
def _database(path: Path, with_log: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a database that nothing is written to.

    What Messages has not yet put into the database stands in a file beside it, which
    SQLite only reads together with a database that it may write.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(path.open("rb"))  # says why it cannot be, unlike SQLite
        log = path.with_name(f"{path.name}-wal")
        mode = "mode=ro&immutable=1"
        if with_log and log.exists() and log.stat().st_size:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shutil.copyfile(log, folder / "copy.db-wal")
            path, mode = Path(shutil.copyfile(path, folder / "copy.db")), "mode=rw"
        name = urllib.parse.quote(str(path.absolute()))
        database = sqlite3.connect(f"file:{name}?{mode}", uri=True)
        stack.callback(database.close)
        yield database


def _query(database: sqlite3.Connection) -> str:
    known = {row[1] for row in database.execute("PRAGMA table_info(message)")}
    columns = [f"m.{name}" if name in known else "NULL" for name in COLUMNS]
    return f"""
        SELECT m.ROWID, {", ".join(columns)}, h.id, min(c.ROWID), c.chat_identifier
        FROM message AS m
        LEFT JOIN handle AS h ON h.ROWID = m.handle_id
        LEFT JOIN chat_message_join AS j ON j.message_id = m.ROWID
        LEFT JOIN chat AS c ON c.ROWID = j.chat_id
        GROUP BY m.ROWID ORDER BY m.date, m.ROWID
    """


def _pieces(
    path: Path,
    number: int,
    plain: Any,
    body: Any,
    by_me: Any,
    date: Any,
    reaction: Any,
    item: Any,
    handle: Any,
    chat: Any,
    identifier: Any,
) -> Iterator[Piece]:
    place = f"{path}:{number}"
    if reaction in REACTIONS:
        yield Skipped("reactions", place)
        return
    if item:
        yield Skipped("events of groups", place)
        return
    said = plain
    if not said and isinstance(body, bytes):
        said = body_text(body)
        if said is None:
            yield Skipped("messages in an unknown form", place)
            return
    # Each attachment leaves one mark in the text.
    if bare := text(text(said).replace("\ufffc", "")):
        speaker = "Me" if by_me else text(handle) or text(identifier) or "Unknown"
        time = _time(date)
        yield Message(speaker, bare, place, f"{chat}", time, by_me=bool(by_me))
    else:
        yield Skipped("media without text", place)


def _time(date: Any) -> float | None:
    if not isinstance(date, int) or not date:
        return None
    return EPOCH + (date / 1e9 if abs(date) >= NANOSECONDS_FROM else date)
