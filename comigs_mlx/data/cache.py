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

NamedArrays = Mapping[str, npt.NDArray[Any]]
"""NumPy arrays by name."""

LIMIT = 4 * 10**9
"""The most bytes of all entries together: 500 million tokens of plain text."""

ABANDONED = 24 * 3600.0
"""The seconds after which an unfinished entry belongs to a killed process."""

ENTRY = "entry.json"
"""The file of an entry that lists the SHA-256 of its arrays."""


class TokenCache:
    """A folder of entries that removes the least recently used ones when it is full.

    A cache never stops the work: an entry that cannot be read counts as missing, and
    the first one that cannot be written leads to one note.
    """

    def __init__(self, folder: Path, say: Say, limit: int = LIMIT) -> None:
        """Remember the folder; nothing is read or written yet.

        Args:
            folder: The folder of this cache alone; it is made when it is needed.
            say: Receives one sentence when the cache cannot be written.
            limit: The most bytes that all entries may have together.
        """
        self.folder, self._say, self.limit = folder, say, limit
        self._works, self._bytes = True, limit + 1  # nothing is known of it yet

    @classmethod
    def of_user(cls, say: Say) -> TokenCache:
        """Open the cache in the user's cache folder; without one, it keeps nothing."""
        try:
            return cls(cache_dir() / "tokens", say)
        except OSError as error:
            nowhere = cls(Path(), say)
            nowhere._fail(error)
            return nowhere

    def load(self, key: str, names: Sequence[str]) -> NamedArrays | None:
        """Map the arrays of an entry, read-only.

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
            digests = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            for name in names:
                if sha256(_file(folder, name)) != digests[name]:
                    return None
            arrays = {name: np.load(_file(folder, name), "r") for name in names}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(folder / ENTRY)
        return arrays

    def store(self, key: str, arrays: NamedArrays) -> None:
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
            self._bytes += _size(self.folder / key)
            if self._bytes > self.limit:  # as far as this process knows
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
        """Remove what killed processes left, then the oldest entries over the limit.

        It looks at every entry, so it is not done for each of thousands of texts.
        """
        entries = []
        for folder in [path for path in self.folder.iterdir() if path.is_dir()]:
            used, size = _last_use(folder), _size(folder)
            if not LEFTOVER.fullmatch(folder.name):
                entries.append((folder.name == latest, used, folder, size))
            elif time.time() - used > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
        self._bytes = sum(size for *_, size in entries)
        for is_latest, _, folder, size in sorted(entries):
            if self._bytes <= self.limit or is_latest:
                return
            shutil.rmtree(folder, ignore_errors=True)
            self._bytes -= size


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _write(folder: Path, arrays: NamedArrays) -> None:
    folder.chmod(0o700)
    for name, array in arrays.items():
        with _private(_file(folder, name)) as file:
            np.save(file, array, allow_pickle=False)
    digests = {name: sha256(_file(folder, name)) for name in arrays}
    with _private(folder / ENTRY) as file:
        file.write(json.dumps(digests, indent=2).encode())


def _private(path: Path) -> IO[bytes]:
    """Open a new file that no other user can open from its first moment on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _last_use(folder: Path) -> float:
    """Return seconds since the epoch; 0 for an entry that has just been removed."""
    for path in (folder / ENTRY, folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    """Count the bytes of the files in `folder`; 0 if it has just been removed."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
