"""Tokens kept on this device between runs: memory-mapped, private, bounded in size.

    CACHE/tokens/<key>/entry.json      name -> SHA-256 of each array's file
    CACHE/tokens/<key>/<name>.npy

The tokens are the user's text in another alphabet, so folders are 0700 and files 0600.
Processes may write one key at once: both write the same, and the last rename wins.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.files import LEFTOVER, cache_dir, replacing_dir, sha256
from comigs_mlx.messages import Note, Say

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays by name."""

LIMIT = 4 * 10**9
"""Bytes of all entries together: 500 million tokens of plain text."""

ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished entry belongs to a process that was killed."""

ENTRY = "entry.json"


class TokenCache:
    """A folder of entries; the least recently used ones go when it gets too large.

    A cache never stops the work: what cannot be read counts as missing, and what
    cannot be written is told once.
    """

    def __init__(self, folder: Path, say: Say, limit: int = LIMIT) -> None:
        """Nothing is read or written yet.

        Args:
            folder: Of this cache alone; made when it is needed.
            say: Told, once, when nothing can be kept.
            limit: Bytes of all entries together.
        """
        self.folder, self._say, self.limit = folder, say, limit
        self._works = True

    @classmethod
    def of_user(cls, say: Say) -> TokenCache:
        """The cache in the user's cache folder; one that keeps nothing without it."""
        try:
            return cls(cache_dir() / "tokens", say)
        except OSError as error:
            nowhere = cls(Path(), say)
            nowhere._fail(error)
            return nowhere

    def load(self, key: str, names: Sequence[str]) -> Arrays | None:
        """The arrays of an entry, mapped read-only.

        Args:
            key: The key that was given to `store`.
            names: The arrays the entry must have.

        Returns:
            The arrays; None where the entry is missing or not bit for bit as stored.
        """
        if not self._works:
            return None
        folder = self.folder / key
        try:
            kept = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            for name in names:
                if sha256(_file(folder, name)) != kept[name]:
                    return None
            found = {name: np.load(_file(folder, name), "r") for name in names}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(folder / ENTRY)
        return found

    def store(self, key: str, arrays: Arrays) -> None:
        """Keep `arrays`, none of them empty, instead of what `key` had before.

        Entries used longest ago are removed to stay below the limit; what is larger
        than that alone is not kept.
        """
        size = sum(array.nbytes for array in arrays.values())
        if not self._works or size > self.limit:
            return
        try:
            self._open()
            with replacing_dir(self.folder / key) as temporary:
                _write(temporary, arrays)
            self._make_room(key)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._works = False
        where = f" in {self.folder}" if self.folder != Path() else ""
        self._say(
            Note(
                f"tokens cannot be kept{where} ({error.strerror or error}): "
                "the next run tokenises the text again"
            )
        )

    def _open(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _make_room(self, latest: str) -> None:
        """Remove what killed processes left, and the oldest entries over the limit."""
        entries = []
        for folder in [path for path in self.folder.iterdir() if path.is_dir()]:
            used, size = _last_use(folder), _size(folder)
            if not LEFTOVER.fullmatch(folder.name):
                entries.append((folder.name == latest, used, folder, size))
            elif time.time() - used > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
        total = sum(size for *_, size in entries)
        for is_latest, _, folder, size in sorted(entries):
            if total <= self.limit or is_latest:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _write(folder: Path, arrays: Arrays) -> None:
    folder.chmod(0o700)
    for name, array in arrays.items():
        with _private(_file(folder, name)) as file:
            np.save(file, array, allow_pickle=False)
    digests = {name: sha256(_file(folder, name)) for name in arrays}
    with _private(folder / ENTRY) as file:
        file.write(json.dumps(digests, indent=2).encode())


def _private(path: Path) -> IO[bytes]:
    """A new file that no other user can open, from its first moment."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _last_use(folder: Path) -> float:
    """Seconds since the epoch; 0 for what has just been removed."""
    for path in (folder / ENTRY, folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    """Bytes of the files in `folder`; 0 for what has just been removed."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
