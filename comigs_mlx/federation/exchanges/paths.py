"""The paths, sizes and commits that may be written through an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import NotAllowed, TooLarge

LONGEST_PATH, LONGEST_NAME = 1000, 200
"""The most bytes of UTF-8; file systems end at 1,024 (macOS) and 255."""


def check_path(path: str) -> None:
    """Raise `NotAllowed` unless `path` may be a file of an exchange."""
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path  # not printable: lone surrogates
    if (
        not plain
        or len(path.encode()) > LONGEST_PATH
        or any(not p or p[0] == "." or len(p.encode()) > LONGEST_NAME for p in parts)
    ):
        raise NotAllowed(
            f"{path!r} cannot be a file of a federation: expected names separated by "
            "/, none empty or beginning with a dot"
        )


def is_allowed(path: str) -> bool:
    """Tell whether `check_path` passes."""
    try:
        check_path(path)
    except NotAllowed:
        return False
    return True


def check_changes(changes: Mapping[str, bytes | None], message: str) -> None:
    """Raise unless `changes` and `message` may be committed."""
    for path in changes:
        check_path(path)
    folders = {str(folder) for p in changes for folder in PurePosixPath(p).parents}
    if clashes := sorted(folders & set(changes)):
        raise NotAllowed(f"{clashes[0]!r} cannot be a file and a folder in one commit")
    if not message.strip():
        raise FederationError("a commit needs a message: give one line")


def check_size(path: str, size: int, max_bytes: int) -> None:
    """Raise `TooLarge` if `size` bytes are more than `max_bytes`."""
    if size > max_bytes:
        raise TooLarge(
            f"{path} has {size} bytes where at most {max_bytes} are accepted: it is "
            "not what it should be, or the federation needs a higher limit"
        )
