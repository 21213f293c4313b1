"""Files written whole or not at all; the user's cache folder. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
"""How systems say that a folder cannot be renamed to the name of another one."""

LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}(\.tmp(\..+)?)?")
"""The temporary names of `replacing` and `replacing_dir`."""


def cache_dir() -> Path:
    """The user's cache folder of this package (`$XDG_CACHE_HOME` or `~/.cache`)."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "comigs_mlx"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`, renamed to `path` when the block ends.

    A reader sees the old file or the new one, never a part; after an exception the
    old one is untouched. The temporary name keeps the suffix of `path`, because some
    writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, f".tmp{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` when the block ends.

    An existing folder at `path` is replaced; a killed process leaves at most a folder
    whose name begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        _put_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed `replacing` and `replacing_dir` left anywhere in `folder`.

    Nothing else may be writing there.
    """
    for path in sorted(folder.rglob(".*-*")):
        if LEFTOVER.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically, as indented JSON with sorted keys."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of the file at `path`, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _beside(path: Path, suffix: str = "") -> Path:
    """An unused hidden name in the same folder.

    Not `tempfile`'s: what that makes ignores the umask, and asking for the umask means
    changing it for a moment, for all threads.
    """
    stem = path.stem if suffix else path.name
    return path.with_name(f".{stem}-{secrets.token_hex(8)}{suffix}")


def _put_folder(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`; where several processes do, the last one wins."""
    while True:
        old = _set_aside(path)
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                if old is not None:
                    os.rename(old, path)
                raise
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)


def _set_aside(path: Path) -> Path | None:
    """Rename the folder at `path`, if there is one, and return its new name."""
    old = _beside(path)
    try:
        if path.is_dir():
            os.rename(path, old)
            return old
    except FileNotFoundError:  # another process was faster
        pass
    return None
