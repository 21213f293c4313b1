"""Conversations as files, RUNS/.conversations/<name>.json, that nobody else can read.

    {"format_version": 1, "owner", "title", "turns": [{"text", "reply"}...],
     "shown": [turns by number], "earlier": [the same, of before an edit, a retry or a
     clear; the newest last]}

A name is the secret that only the page knows. Files are written whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from comigs_mlx import command
from comigs_mlx.errors import ConfigError, line
from comigs_mlx.files import LEFTOVER, replacing

FORMAT = 1
FOLDER = ".conversations"

MOST_FILES = 500
MOST_BYTES = 10**9
"""Conversations kept, and their bytes: of more, the oldest go."""

MOST_READ = 256 * 1024 * 1024
"""A larger file is none of ours."""

ABANDONED = 3600.0
"""Seconds after which a half-written file is of a process that was killed."""

NAME = re.compile(r"[0-9a-f]{32}")


class Store:
    """The conversations of one folder of runs.

    Args:
        runs: The folder of runs; nothing is made there before the first conversation.
    """

    def __init__(self, runs: Path):
        self.folder = runs / FOLDER
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[tuple[int, int], dict[str, str]]] = {}
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why conversations are not kept now, in a sentence; empty: they are."""
        with self._lock:
            return self._problem

    def write(self, name: str, content: dict[str, Any]) -> bool:
        """Keep a conversation; whether that was possible.

        A folder that is full or read-only is told once, on stderr and as `problem`:
        the conversation then goes on in memory.
        """
        try:
            self._write(name, {"format_version": FORMAT, **content})
        except OSError as error:
            why = line(error)
            told = (
                f"Conversations cannot be kept ({why}): this one ends with the app. "
                f"Make room in {self.folder}, or make it writable."
            )
            with self._lock:
                new, self._problem = not self._problem, told
            if new:
                command.say(told)
            return False
        with self._lock:
            self._problem = ""
        self._bound()
        return True

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        with replacing(self._file(name)) as temporary:
            temporary.chmod(0o600)  # while it is still empty
            temporary.write_text(text, encoding="ascii")

    def read(self, name: str) -> dict[str, Any] | None:
        """A conversation; None where there is none.

        Raises:
            ConfigError: If it cannot be read; it is left as it is.
        """
        try:
            if self._file(name).stat().st_size > MOST_READ:
                raise ValueError("it is too large")
            found = json.loads(self._file(name).read_bytes())
            if not isinstance(found, dict):
                raise ValueError("it is no conversation")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise unreadable(self._file(name), line(error)) from error
        if found.get("format_version") != FORMAT:
            raise unreadable(self._file(name), "a newer version wrote it")
        return found

    def remove(self, name: str) -> None:
        """Delete a conversation for good."""
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The conversation cannot be deleted ({line(error)})."
            ) from error

    def listed(self, owner: str) -> list[dict[str, str]]:
        """`name`, `title` and `when` of an owner's conversations, the newest first."""
        found = []
        for entry, stamp in self._files():
            with self._lock:
                seen = self._seen.get(entry.stem)
            if seen is None or seen[0] != stamp:
                seen = (stamp, self._summary(entry))
                with self._lock:
                    self._seen[entry.stem] = seen
            if seen[1].get("owner") == owner:
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp[0] / 1e9))
                title = seen[1]["title"]
                found.append({"name": entry.stem, "title": title, "when": when})
        return found

    def _summary(self, file: Path) -> dict[str, str]:
        try:
            found = self.read(file.stem) or {}
        except ConfigError:
            return {}
        owner, title = found.get("owner"), found.get("title")
        known = isinstance(owner, str) and isinstance(title, str)
        return {"owner": str(owner), "title": str(title)} if known else {}

    def _files(self) -> list[tuple[Path, tuple[int, int]]]:
        """Every conversation with its time and size, the newest first."""
        found = []
        try:
            entries = list(os.scandir(self.folder))
        except OSError:
            return []
        for entry in entries:
            try:
                stat = entry.stat(follow_symlinks=False)
                if NAME.fullmatch(Path(entry.name).stem) and entry.name.endswith(
                    ".json"
                ):
                    stamp = (stat.st_mtime_ns, stat.st_size)
                    found.append((Path(entry.path), stamp))
                elif LEFTOVER.fullmatch(entry.name):
                    if time.time() - stat.st_mtime > ABANDONED:
                        os.unlink(entry.path)
            except OSError:  # gone meanwhile
                continue
        return sorted(found, key=lambda one: one[1], reverse=True)

    def _bound(self) -> None:
        total = 0
        for i, (file, (_, size)) in enumerate(self._files()):
            total += size
            if i and (i >= MOST_FILES or total > MOST_BYTES):
                file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ConfigError("This page is out of date: reload it.")
        return self.folder / f"{name}.json"


def unreadable(file: Path, why: str) -> ConfigError:
    """The error for a conversation that cannot be read."""
    return ConfigError(
        f"This conversation cannot be read ({why}); it is left as it is in {file}. "
        "Begin a new one."
    )
