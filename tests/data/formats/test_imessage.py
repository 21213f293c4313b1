from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from comigs_mlx.data.formats.imessage import EPOCH, body_text, matches, read
from comigs_mlx.data.pieces import HEAD, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

SCHEMA = """
CREATE TABLE handle (ROWID INTEGER PRIMARY KEY, id TEXT);
CREATE TABLE chat (ROWID INTEGER PRIMARY KEY, chat_identifier TEXT);
CREATE TABLE chat_message_join (chat_id INTEGER, message_id INTEGER);
CREATE TABLE message (
    ROWID INTEGER PRIMARY KEY, text TEXT, attributedBody BLOB, is_from_me INTEGER,
    date INTEGER, handle_id INTEGER, associated_message_type INTEGER, item_type INTEGER
);
INSERT INTO handle VALUES (1, '+49 170 1234567'), (2, 'ben@example.org');
INSERT INTO chat VALUES (1, '+49 170 1234567'), (2, 'chat99');
"""

NANOSECONDS = 10**9


def archive(text: str, mutable: bool = False) -> bytes:
    """A styled string as Messages stores it; `text` decides on the length's width."""
    raw = text.encode()
    if len(raw) < 0x80:
        length = bytes([len(raw)])
    elif len(raw) < 0x8000:
        length = b"\x81" + len(raw).to_bytes(2, "little")
    else:
        length = b"\x82" + len(raw).to_bytes(4, "little")
    if mutable:
        classes = (
            b"\x84\x84\x84\x19NSMutableAttributedString\x00\x84\x84\x12NSAttributedString"
            b"\x00\x84\x84\x08NSObject\x00\x85\x92\x84\x84\x84\x0fNSMutableString\x01"
            b"\x84\x84\x08NSString\x01\x95"
        )
    else:
        classes = (
            b"\x84\x84\x84\x12NSAttributedString\x00\x84\x84\x08NSObject\x00\x85\x92"
            b"\x84\x84\x84\x08NSString\x01\x94"
        )
    start = b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x01@" + classes + b"\x84\x01+"
    end = b"\x86\x84\x02iI\x01\x05\x92\x84\x84\x84\x0cNSDictionary\x00"
    return start + length + raw + end


def add(database: sqlite3.Connection, number: int, chat: int, *values: object) -> None:
    marks = ", ".join("?" * (1 + len(values)))
    database.execute(f"INSERT INTO message VALUES ({marks})", (number, *values))
    database.execute("INSERT INTO chat_message_join VALUES (?, ?)", (chat, number))
    database.commit()


def sample() -> bytes:
    """The bytes of a database of one message."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        add(connection, 1, 1, "hi", None, 1, 5, 0, 0, 0)
        return connection.serialize()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        connection.execute("PRAGMA synchronous = off")
        connection.executescript(SCHEMA)
        yield connection


SAMPLES = {"chat.db": sample()}


def pieces(path: Path) -> list[Piece]:
    with path.open("rb") as file:
        assert matches(FileHead(str(path), file.read(HEAD), path.stat().st_size))
    return list(read(path, Reading()))


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("length", [1, 0x7F, 0x80, 0x86, 0x8484, 0x8000, 70_000])
def test_texts_of_every_length_are_found_in_their_archive(
    length: int, mutable: bool
) -> None:
    text = "ü" * (length // 2) + "x" * (length % 2)
    assert body_text(archive(text, mutable)) == text


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"bplist00NSString",
        archive("hello")[:70],
        archive("x")[:60],
        b"\x04\x0bstreamtyped",
    ],
)
def test_other_archives_have_no_text(damaged: bytes) -> None:
    assert body_text(damaged) is None


def test_reads_texts_by_date_and_chat(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    second = 700_000_000
    add(database, 1, 1, "later", None, 1, (second + 9) * NANOSECONDS, 0, 0, 0)
    add(database, 2, 1, None, archive("\ufffcfirst"), 0, second, 1, 0, 0)
    add(database, 3, 2, "in a group", None, 0, second + 1, 2, 0, 0)
    add(database, 4, 2, "Liked “x”", None, 0, second + 2, 2, 2001, 0)
    add(database, 5, 2, None, None, 0, second + 3, 2, 0, 2)
    add(database, 6, 1, "\ufffc", None, 1, second + 4, 0, 0, 0)
    add(database, 7, 1, None, b"junk", 1, second + 5, 0, 0, 0)
    add(database, 8, 2, "nobody", None, 0, second + 6, 0, None, None)
    found = pieces(tmp_path / "chat.db")
    assert [
        (p.speaker, p.text, p.by_me, p.thread, (p.time or 0) - EPOCH - second)
        for p in found
        if isinstance(p, Message)
    ] == [
        ("+49 170 1234567", "first", False, "1", 0),
        ("ben@example.org", "in a group", False, "2", 1),
        ("chat99", "nobody", False, "2", 6),
        ("Me", "later", True, "1", 9),
    ]
    assert [p.what for p in found if isinstance(p, Skipped)] == [
        "reactions",
        "events of groups",
        "media without text",
        "messages in an unknown form",
    ]


def test_reads_what_is_not_yet_in_the_database_and_changes_nothing(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    database.execute("PRAGMA journal_mode=wal")
    add(database, 1, 1, "just now", None, 1, 5, 0, 0, 0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(before["chat.db-wal"]) > 0
    (message,) = pieces(tmp_path / "chat.db")
    assert isinstance(message, Message)
    assert message.text == "just now"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_old_databases_lack_columns(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    add(database, 1, 1, "hi", None, 1, 5, 0, 0, 0)
    database.execute("ALTER TABLE message DROP COLUMN attributedBody")
    database.execute("ALTER TABLE message DROP COLUMN associated_message_type")
    assert len(pieces(tmp_path / "chat.db")) == 1


def test_a_damaged_database_and_a_missing_permission_are_explained(
    database: sqlite3.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(database, 1, 1, "x" * 100_000, None, 1, 5, 0, 0, 0)
    path = tmp_path / "chat.db"
    cut = tmp_path / "cut.db"
    cut.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(
        DataError, match=r"cut\.db: cannot be read .*damaged or cut off"
    ):
        list(read(cut, Reading()))

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        DataError, match=r"chat\.db: cannot be read: .*Full Disk Access"
    ):
        list(read(path, Reading()))


def test_leaves_other_databases_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE message (text TEXT);")
    raw = path.read_bytes()
    assert not matches(FileHead(str(path), raw[:HEAD], len(raw)))
    assert not matches(FileHead("x", b"no", 2))
