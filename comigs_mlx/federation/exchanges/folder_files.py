"""Reads files of a folder that others can write to, and never follows a link."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import NotAllowed
from comigs_mlx.federation.exchanges.paths import is_allowed


@dataclass(frozen=True)
class FileStamp:
    """The size of a file in bytes, and the time of its last change in ns."""

    size: int
    time: int


def is_linked(root: Path, path: str) -> bool:
    """Tell whether a symbolic link is at `path`, or on the way there from `root`."""
    parts = path.split("/")
    return any(
        (root / "/".join(parts[: n + 1])).is_symlink() for n in range(len(parts))
    )


def read_file(file: Path, entry: FileStamp) -> bytes | None:
    """Read the file; return None if it is not, or does not stay, as `entry` says."""
    # NONBLOCK: another participant may have put a pipe there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(file, flags), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) or stamp_of(status) != entry:
            return None
        content = opened.read(entry.size)
        return content if stamp_of(os.fstat(opened.fileno())) == entry else None


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, FileStamp]]:
    """Yield path and entry of every file below `folder` that an exchange may hold."""
    with os.scandir(folder) as items:
        for item in items:
            path = prefix + item.name
            if not is_allowed(path) or is_stray(item.name):
                continue
            if item.is_dir(follow_symlinks=False):
                yield from walk(Path(item.path), f"{path}/")
            elif item.is_file(follow_symlinks=False):
                yield path, stamp_of(item.stat(follow_symlinks=False))


STRAY = re.compile(
    r"thumbs\.db|ehthumbs.*\.db|desktop\.ini|~.*|.*~"
    r"|.*\.(tmp|temp|part|partial|crdownload|swp|orig|rej|bak|icloud)"
    r"|.*\.sync-conflict-.*|.*[ (_](sf)?conflict(ed)?[ )_.-].*|.* \(\d+\)(\..*)?"
    r"|.* - copy( \(\d+\))?(\..*)?",
    re.IGNORECASE | re.DOTALL,
)
"""The names that file managers, editors and synchronisers leave in shared folders; no
participant has such a name."""


def is_stray(name: str) -> bool:
    """Tell whether a file has a name that only other programs give."""
    return bool(STRAY.fullmatch(name))


def stamp_of(status: os.stat_result) -> FileStamp:
    """Return what of a file's status tells one state from another."""
    return FileStamp(status.st_size, status.st_mtime_ns)


REASONS = {
    errno.ENOSPC: "the disk is full: free some space and try again",
    errno.EDQUOT: "the disk quota is used up: free some space and try again",
    errno.EROFS: "the disk is read-only: ask its owner for the right to write",
    errno.EACCES: "this user has no right to: ask its owner",
    errno.EPERM: "this user has no right to: ask its owner",
    errno.ENOTDIR: "it is not a folder: choose another path",
    errno.EEXIST: "there is a file of this name: choose another path",
}


@contextlib.contextmanager
def clear(root: Path, doing: str = "write to") -> Iterator[None]:
    """Turn an error of the system into one sentence of ours."""
    try:
        yield
    except OSError as error:
        reason = REASONS.get(error.errno or 0, f"{error.strerror}: mend it, try again")
        right = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        kind = NotAllowed if right else FederationError
        raise kind(f"cannot {doing} {root}: {reason}") from error
