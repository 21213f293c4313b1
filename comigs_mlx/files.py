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

LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}(\.old|\.tmp(\..+)?)?")
"""The temporary names of `replacing` and `replacing_dir`."""

ASIDE = re.compile(r"\.(.+)-[0-9a-f]{16}\.old")
"""Those of them that hold a whole folder, moved out of the way of a new one."""


def cache_dir() -> Path:
    """The user's cache folder of this package (`$XDG_CACHE_HOME` or `~/.cache`).

    Raises:
        OSError: If neither is known, as in a container with an unknown user.
    """
    return _user_dir("XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """The user's folder for what this package remembers (`$XDG_STATE_HOME` or
    `~/.local/state`): unlike a cache, it cannot be made again.

    Raises:
        OSError: If neither is known, as in a container with an unknown user.
    """
    return _user_dir("XDG_STATE_HOME", ".local/state")


def _user_dir(variable: str, usual: str) -> Path:
    """The folder that a variable names, else the usual one in the user's home."""
    if root := os.environ.get(variable):
        return Path(root) / "comigs_mlx"
    try:
        return Path.home() / usual / "comigs_mlx"
    except RuntimeError:
        unknown = f"no home folder is known: set HOME, or {variable}"
        raise OSError(errno.ENOENT, unknown) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`, renamed to `path` when the block ends.

    A reader sees the old file or the new one, never a part; after an exception the
    old one is untouched. The temporary name keeps the suffix of `path`, because some
    writers choose their format by it.

    Raises:
        OSError: If `path` is a device or the like (see `check_replaceable`).
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, f".tmp{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Refuse a name that only an ordinary file may be renamed to.

    The superuser's /dev/null would become a file for the whole machine, and /dev/stdout
    one that nobody sees.

    Raises:
        OSError: If `path` is a device, a pipe or a socket, or in /dev or /proc.
    """
    kept_by_system = Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))
    if kept_by_system or (path.exists() and not (path.is_file() or path.is_dir())):
        reason = "not an ordinary file, and must not be replaced: name another one"
        raise OSError(errno.EINVAL, reason, str(path))


def unwritable(file: Path) -> str | None:
    """Why a result cannot be written to a file, known before it is made; or None."""
    try:
        check_replaceable(file)
    except OSError as error:
        return error.strerror
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    if file.is_dir():
        return "this is a folder, give a file in it"
    if not os.access(file.parent, os.W_OK):
        return f"you may not write in {file.parent}"
    return None


@contextlib.contextmanager
def replacing_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` when the block ends.

    An existing folder at `path` is replaced. A killed process leaves folders whose
    names begin with a dot; between its two renames nothing is at `path`, and the old
    folder, whole under such a name, is put back by `restore` or `sweep`.
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


def set_aside(folder: Path) -> list[Path]:
    """Whole folders that `replacing_dir` moved out of the way, newest first.

    Found anywhere in `folder`: of killed processes, and for a moment of one at work.
    """
    found = [path for path in folder.rglob(".*-*.old") if ASIDE.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def restore(folder: Path) -> None:
    """Put back what a killed `replacing_dir` had set aside anywhere in `folder`.

    Nothing else may be writing there.
    """
    for old in set_aside(folder):
        match = ASIDE.fullmatch(old.name)
        assert match is not None
        _settle(old, old.with_name(match[1]))


def sweep(folder: Path) -> None:
    """Restore, then remove what else killed processes left anywhere in `folder`.

    Nothing else may be writing there.
    """
    restore(folder)
    for path in sorted(folder.rglob(".*-*")):
        if LEFTOVER.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sweep_names(folder: Path, name: str) -> None:
    """Restore or remove what killed processes left of `name` alone, in `folder` itself.

    Nothing else may be writing to files or folders of that name; to others, it may.
    """
    left = [path for path in folder.glob(f".{name}-*") if LEFTOVER.fullmatch(path.name)]
    own = re.compile(rf"\.{re.escape(name)}-[0-9a-f]{{16}}(\.|$)")
    for path in filter(lambda path: own.match(path.name), left):
        if path.name.endswith(".old"):
            _settle(path, folder / name)
        elif path.is_dir():
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
        old = _move_aside(path)
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        finally:  # also after Ctrl-C
            if old is not None:
                _settle(old, path)


def _move_aside(path: Path) -> Path | None:
    """Rename the folder at `path`, if there is one, and return its new name."""
    old = _beside(path)
    old = old.with_name(f"{old.name}.old")
    try:
        if path.is_dir():
            os.rename(path, old)
            return old
    except FileNotFoundError:  # another process was faster
        pass
    return None


def _settle(old: Path, path: Path) -> None:
    """Put a folder that was set aside back to `path`, or remove it if one is there."""
    if not path.exists():
        try:
            os.rename(old, path)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
    # Under another name first: half removed it must not look like a whole one.
    gone = _beside(path)
    os.rename(old, gone)
    shutil.rmtree(gone, ignore_errors=True)
