"""One folder with conversations: reading, writing, its bin and its bounds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.conversations import version_1
from comigs_mlx.conversations.answers import Answer
from comigs_mlx.conversations.tokens import Said, said_text
from comigs_mlx.conversations.tree import Conversation, Turn, conversation_from_json
from comigs_mlx.errors import ConfigError, line
from comigs_mlx.files import LEFTOVER, replacing

FORMAT = 2
TEXTS = "conversation.json"
BIN = ".trash"

MOST_CONVERSATIONS = 500
MOST_BYTES = 10**9
"""Conversations, and their bytes, that are kept: of more, the oldest go."""

BOUNDED_EACH = 60.0
"""Seconds after which a conversation that goes on has the bounds looked at again."""

LATEST = 1e11
"""A time after this one, in the year 5138, is none; nor is one that is no number."""

MOST_READ = 256 * 1024 * 1024
"""A larger file is none of ours."""

ABANDONED = 3600.0
"""Seconds after which something half-written is of a process that was killed."""

MOST_REMOVED = 20
REMOVED_FOR = 24 * 3600.0
"""Conversations in the bin, and the seconds that they stay there."""

NAME = re.compile(r"[0-9a-f]{32}")
FILE = re.compile(r"conversation\.json|\d+\.tokens\.json")

DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, ArithmeticError)
DAMAGED = (*DAMAGE, AttributeError, RecursionError)
"""What reading a file raises that is not what it should be."""

Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and size."""


@dataclass(frozen=True)
class Summary:
    """One line of a list of conversations.

    Attributes:
        id: The conversation's id.
        title: The title that a list shows.
        changed: The time at which something was last said, in seconds since 1970.
        run: The name of the run that spoke last; "" where none did.
    """

    id: str
    title: str
    changed: float
    run: str

    @staticmethod
    def of(conversation: Conversation) -> Summary:
        """The line of a conversation."""
        one = conversation
        return Summary(one.id, one.title, one.changed, one.run)


class Disk:
    """The conversations of one folder; each method may raise `OSError`.

    Args:
        folder: The folder; nothing is made there before the first conversation.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._changing = threading.RLock()
        self._seen: dict[str, tuple[Stamp, Summary | None]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._written: set[str] = set()
        self._bounded = 0.0

    def read(self, id: str) -> Conversation | None:
        """A conversation; None where there is none. An old one is written anew.

        Raises:
            ConfigError: If it cannot be read; it is left as it is.
        """
        found = self.peek(id)
        if found is None:
            return None
        with self._changing:
            if (old := self._old(id)).is_file():
                if not (self._place(id) / TEXTS).exists():
                    self._upgrade(id)
                old.unlink(missing_ok=True)
        return found

    def peek(self, id: str) -> Conversation | None:
        """The same, and the file stays as it is, whatever its version."""
        file = self._place(id) / TEXTS
        values = _load(file, FORMAT)
        if values is None:
            old = self._read_old(id)
            return None if old is None else old[0]
        try:
            found = conversation_from_json(id, values)
        except DAMAGED as error:
            raise unreadable(file, line(error)) from error
        for turn in found.unended:
            self._settle(id, turn)
        return found

    def texts(self, id: str) -> list[str]:
        """The text of every turn in every branch, unchecked, for a search.

        Raises:
            ConfigError: If they cannot be read.
        """
        values = _load(self._place(id) / TEXTS, FORMAT)
        old = _load(self._old(id), version_1.FORMAT) if values is None else None
        try:
            if values is None:
                return [] if old is None else version_1.texts(old)
            return [str(turn["text"]) for turn in values["turns"]]
        except DAMAGED as error:
            raise unreadable(self._place(id), line(error)) from error

    def write(self, conversation: Conversation) -> None:
        """Keep a conversation as it is now."""
        id, now = conversation.id, time.monotonic()
        with self._changing:
            content = {"format_version": FORMAT, **conversation.as_json()}
            self._write(id, TEXTS, content)
            # An answer under way is written every few seconds, and looks at no others.
            if id not in self._written or now - self._bounded > BOUNDED_EACH:
                self._written.add(id)
                self._bounded = now
                with contextlib.suppress(OSError):  # this one is kept all the same
                    self._bound()

    def write_tokens(self, id: str, turn: int, tokens: Sequence[Said]) -> None:
        """Keep the tokens of an answer."""
        values = [token.as_json() for token in tokens]
        content = {"format_version": FORMAT, "tokens": values}
        with self._changing:
            self._write(id, f"{turn:d}.tokens.json", content)

    def read_tokens(self, id: str, turn: int) -> list[Said]:
        """The tokens of an answer; none where they are not kept.

        Raises:
            ConfigError: If they cannot be read.
        """
        file = self._place(id) / f"{turn:d}.tokens.json"
        values = _load(file, FORMAT)
        if values is None:
            old = self._read_old(id)
            return [] if old is None else old[1].get(turn, [])
        try:
            return [Said.from_json(token) for token in values["tokens"]]
        except DAMAGED as error:
            raise unreadable(file, line(error)) from error

    def has(self, id: str) -> bool:
        """Whether there is something under an id."""
        return self._place(id).is_dir() or self._old(id).is_file()

    def remove(self, id: str) -> None:
        """Put a conversation into the bin.

        Raises:
            ConfigError: If it is an old one that cannot be read.
        """
        with self._changing:
            self.read(id)
            place, removed = self._place(id), self.folder / BIN / id
            if not place.is_dir():
                return
            _private(self.folder / BIN)
            _erase(removed)
            os.rename(place, removed)
            os.utime(removed)  # from now on it is in the bin
            self.empty_bin()

    def restore(self, id: str) -> bool:
        """Take a conversation out of the bin; whether it was there."""
        with self._changing:
            removed, place = self.folder / BIN / id, self._place(id)
            if not removed.is_dir():
                return False
            if place.exists():  # it has gone on meanwhile
                _erase(removed)
            else:
                os.rename(removed, place)
            return True

    def empty_bin(self) -> None:
        """Let go what was removed long ago, and of too much the oldest."""
        entries = sorted(_folders(self.folder / BIN), reverse=True)
        with self._changing, contextlib.suppress(OSError):
            for i, (stamp, path) in enumerate(entries):
                age = time.time() - stamp / 1e9
                if i >= MOST_REMOVED or age > REMOVED_FOR:
                    _erase(path)

    def summaries(self) -> list[Summary]:
        """Every conversation that can be read, in no order."""
        ids = [path.name for _, path in _folders(self.folder)]
        ids += [path.stem for _, _, path in self._old_files()]
        found = {id: self._summary(id) for id in ids}
        with self._changing:
            self._seen = {id: one for id, one in self._seen.items() if id in found}
        return [one for one in found.values() if one is not None]

    def _summary(self, id: str) -> Summary | None:
        stamp = _stamp(self._place(id) / TEXTS) or _stamp(self._old(id))
        if stamp is None:
            return None
        seen = self._seen.get(id)
        if seen is None or seen[0] != stamp:
            try:
                seen = (stamp, self._summarised(id))
            except ConfigError:
                seen = (stamp, None)
            with self._changing:
                self._seen[id] = seen
        return seen[1]

    def _summarised(self, id: str) -> Summary | None:
        """The line of a conversation, without a look at its turns: there are many."""
        values = _load(self._place(id) / TEXTS, FORMAT)
        if values is None:
            return self._old_summary(id)
        title, run = values.get("title"), values.get("run", "")
        changed = values.get("changed")
        if not isinstance(title, str) or not isinstance(run, str):
            return None
        if not isinstance(changed, (int, float)) or not abs(changed) < LATEST:
            return None
        return Summary(id, title, float(changed), run)

    def _old_summary(self, id: str) -> Summary | None:
        file = self._old(id)
        values = _load(file, version_1.FORMAT)
        try:
            if values is None:
                return None
            title, run = version_1.title_and_run(values)
            return Summary(id, title, file.stat().st_mtime, run)
        except DAMAGED as error:
            raise unreadable(file, line(error)) from error

    def _settle(self, id: str, turn: Turn) -> None:
        """End an answer that the end of a process cut off.

        Its tokens are written when it ends: where they are there, it is whole, and
        only the end of it was not yet written. Those of before it went on are fewer.
        """
        answer = turn.answer or Answer()
        try:
            tokens = self.read_tokens(id, turn.id)
        except ConfigError:
            tokens = []
        if tokens and len(said_text(tokens)) >= len(turn.text):
            turn.text, answer.count = said_text(tokens), len(tokens)
            answer.finish = tokens[-1].finish
            answer.share = version_1.share(tokens, answer.experts)
            answer.end()
        else:
            answer.interrupt()

    def _read_old(self, id: str) -> tuple[Conversation, version_1.Tokens] | None:
        file = self._old(id)
        values = _load(file, version_1.FORMAT)
        if values is None:
            return None
        try:
            return version_1.read(id, values, file.stat().st_mtime)
        except FileNotFoundError:  # another process was faster
            return None
        except DAMAGED as error:
            raise unreadable(file, line(error)) from error

    def _upgrade(self, id: str) -> None:
        """Write an old conversation anew, its texts last: with them it is whole."""
        found = self._read_old(id)
        if found is not None:
            conversation, tokens = found
            for turn, said in tokens.items():
                self.write_tokens(id, turn, said)
            self.write(conversation)

    def _write(self, id: str, name: str, content: Mapping[str, Any]) -> None:
        _private(self.folder)
        _private(self._place(id))
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        with replacing(self._place(id) / name) as temporary:
            temporary.chmod(0o600)  # while it is still empty
            temporary.write_text(text, encoding="ascii")

    def _bound(self) -> None:
        """Let the oldest go: of too many bytes their tokens first, then their words."""
        total = 0
        every = [(stamp, path, self._size(path)) for stamp, path in self._swept()]
        every += [(stamp, path, size) for stamp, size, path in self._old_files()]
        for i, (_, path, size) in enumerate(sorted(every, reverse=True)):
            if i and total + size > MOST_BYTES:
                size -= _thin(path)
            total += size
            if i and (i >= MOST_CONVERSATIONS or total > MOST_BYTES):
                _erase(path)

    def _swept(self) -> Iterator[tuple[int, Path]]:
        """The folders of conversations, without what killed processes left."""
        for stamp, path in _folders(self.folder):
            if (path / TEXTS).exists() or time.time() - stamp / 1e9 < ABANDONED:
                yield stamp, path
            elif not self._old(path.name).exists():
                _erase(path)

    def _size(self, path: Path) -> int:
        """Bytes in a conversation's folder, whose time changes with every file."""
        stamp = path.stat().st_mtime_ns
        known = self._sizes.get(path.name)
        if known is None or known[0] != stamp:
            known = (stamp, _sweep(path))
            self._sizes[path.name] = known
        return known[1]

    def _old_files(self) -> list[tuple[int, int, Path]]:
        """Time, size and path of each conversation of version 1."""
        found = []
        for entry in _entries(self.folder):
            id, _, kind = entry.name.partition(".")
            if kind == "json" and NAME.fullmatch(id):
                if stamp := _stamp(self.folder / entry.name):
                    found.append((*stamp, self.folder / entry.name))
            elif not id and LEFTOVER.fullmatch(entry.name) and _is_abandoned(entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        return found

    def _place(self, id: str) -> Path:
        return self.folder / check_id(id)

    def _old(self, id: str) -> Path:
        return self.folder / f"{check_id(id)}.json"


def check_id(id: Any) -> str:
    """A name that leads nowhere but into the folder.

    Raises:
        ConfigError: If it is none.
    """
    if not isinstance(id, str) or not NAME.fullmatch(id):
        raise ConfigError("This page is out of date: reload it.")
    return id


def unreadable(file: Path, why: str) -> ConfigError:
    """The error for a conversation that cannot be read."""
    return ConfigError(
        f"This conversation cannot be read ({why}); it is left as it is in {file}. "
        "Begin a new one."
    )


def _load(file: Path, version: int) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file."""
    try:
        if file.stat().st_size > MOST_READ:
            raise ValueError("it is too large")
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no conversation")
        stated = found.get("format_version")
        if stated != version:
            newer = type(stated) is int and stated > version
            raise ValueError(
                "a newer version wrote it" if newer else "it is no conversation"
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(file, line(error)) from error
    return found


def _private(folder: Path) -> None:
    """Make a folder that nobody else can look into."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # none was made, or it is gone meanwhile
        return []


def _folders(folder: Path) -> list[tuple[int, Path]]:
    """Time and path of each conversation's folder; a link is none."""
    found = []
    for entry in _entries(folder):
        if NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):  # gone meanwhile
                known = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(known.st_mode):
                    found.append((known.st_mtime_ns, folder / entry.name))
    return found


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    stamp = _stamp(Path(entry.path))
    return stamp is not None and time.time() - stamp[0] / 1e9 > ABANDONED


def _sweep(folder: Path) -> int:
    """Remove what killed processes left in a folder; the bytes of the rest."""
    total = 0
    for entry in _entries(folder):
        if LEFTOVER.fullmatch(entry.name) and _is_abandoned(entry):
            Path(entry.path).unlink(missing_ok=True)
        elif stamp := _stamp(Path(entry.path)):
            total += stamp[1]
    return total


def _thin(path: Path) -> int:
    """Remove the tokens of a conversation; how many bytes they had.

    Its age stays: else it would count as the newest.
    """
    freed = 0
    if path.is_dir():
        stamp = path.stat().st_mtime_ns
        for file in path.glob("*.tokens.json"):
            freed += file.stat().st_size
            file.unlink(missing_ok=True)
        os.utime(path, ns=(stamp, stamp))
    return freed


def _erase(path: Path) -> None:
    """Delete a conversation for good: its texts first, then nobody lists it."""
    if path.is_dir():
        (path / TEXTS).unlink(missing_ok=True)
        for entry in _entries(path):
            if FILE.fullmatch(entry.name) or LEFTOVER.fullmatch(entry.name):
                Path(entry.path).unlink(missing_ok=True)
        if not _entries(path):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)
