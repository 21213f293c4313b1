"""Changes several files of a folder at once, even if the process is killed.

A commit stages its new files under hidden names, then writes `pending.json`: from that
moment it has happened. Then each staged file is renamed to its place, and at last
`pending.json` to `done.json`. A process that finds a `pending.json` reads the staged
files as if they were in place, and the next one that writes finishes the renames.

    ROOT/.comigs/lock, done.json, pending.json, stage-<hex>/<n>
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comigs_mlx.errors import FederationError, line, reading
from comigs_mlx.federation.exchanges.base import Changes, NotAllowed
from comigs_mlx.federation.exchanges.folder_files import is_linked
from comigs_mlx.federation.exchanges.paths import check_path
from comigs_mlx.federation.formats.strict_json import parse
from comigs_mlx.files import write_bytes, write_json, write_text

HIDDEN, PENDING, DONE = ".comigs", "pending.json", "done.json"
LAST = "round.json"
"""The file that is renamed last: a program that knows nothing of the journal (mlx-lm)
may see a new round's adapter under the old round's number, never the reverse."""

STAGED = re.compile(r"stage-[0-9a-f]{16}/[0-9]+")
MOST_BYTES = 10_000_000
"""The most bytes of a journal, which names the files of one commit."""


@dataclass(frozen=True)
class JournalState:
    """The content of the journal at one moment.

    Attributes:
        commits: The number of commits, a pending one included.
        token: A text that differs between any two moments with a step of a commit in
            between.
        staged: Maps a path to the name of its staged file below the hidden folder.
        deleted: The paths that the pending commit deletes.
    """

    commits: int = 0
    token: str = ""
    staged: dict[str, str] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()


class Journal:
    """The journal of the folder `root`; all but `state` need the folder's lock."""

    def __init__(self, root: Path):
        self.root = root
        self.hidden = root / HIDDEN

    def state(self) -> JournalState:
        """Read the journal as it is now.

        Raises:
            NotAllowed: If this program did not write it: others can write there, so it
                is not trusted.
        """
        for name in (PENDING, DONE):  # this order: one is renamed to the other
            file = self.hidden / name
            try:
                content = _read(file)
            except FileNotFoundError:
                continue
            return _parse(content, name, file)
        return JournalState()

    def stage(self, changes: Changes) -> dict[str, str]:
        """Write the new files under hidden names; return path -> name."""
        folder = f"stage-{secrets.token_hex(8)}"
        (self.hidden / folder).mkdir()
        staged = {}
        for i, (path, content) in enumerate(changes.items()):
            if content is not None:
                staged[path] = f"{folder}/{i}"
                write_bytes(self.hidden / staged[path], content)
        return staged

    def begin(self, commits: int, changes: Changes, staged: dict[str, str]) -> None:
        """Make the commit happen: after this it is never lost."""
        for path in staged:  # a full disk must fail here, before anything has happened
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        deleted = sorted(path for path, content in changes.items() if content is None)
        content = {"commits": commits, "staged": staged, "deleted": deleted}
        write_json(self.hidden / PENDING, content)

    def finish(self) -> None:
        """Put the files of a pending commit, if there is one, in their places."""
        if (self.hidden / PENDING).exists():
            state = self.state()
            for path in sorted(state.staged, key=lambda path: (path == LAST, path)):
                self._place(f"{HIDDEN}/{state.staged[path]}", path)
            for path in sorted(state.deleted):
                if not is_linked(self.root, path):
                    (self.root / path).unlink(missing_ok=True)
                    self._prune(path)
            os.replace(self.hidden / PENDING, self.hidden / DONE)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed processes have staged and never committed."""
        for folder in self.hidden.glob("stage-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self.hidden.glob(".*.tmp.json"):
            file.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the hidden folder, invisible to git."""
        self.hidden.mkdir(exist_ok=True)
        ignore = self.hidden / ".gitignore"
        if not ignore.exists():
            write_text(ignore, "*\n")

    def _place(self, staged: str, path: str) -> None:
        if is_linked(self.root, path) or is_linked(self.root, staged):
            raise NotAllowed(
                f"{path} leads out of {self.root} through a link: remove it"
            )
        # A staged file that is gone was renamed by a process that was then killed.
        if (self.root / staged).exists():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.root / staged, target)

    def _prune(self, path: str) -> None:
        """Remove the folders that became empty: a git repository has none either."""
        for parent in list((self.root / path).parents):
            if parent == self.root:
                return
            with contextlib.suppress(OSError):
                parent.rmdir()


def _read(file: Path) -> bytes | None:
    """Read the file; return None if this program cannot have written it."""
    # NONBLOCK: another participant may have put a pipe there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        opened = open(os.open(file, flags), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            return None
        raise
    with opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            return None
        return opened.read(MOST_BYTES + 1)


def _parse(content: bytes | None, name: str, file: Path) -> JournalState:
    with reading(file, NotAllowed, "see that nobody else is writing, and delete it"):
        try:
            values = parse(b"" if content is None else content, MOST_BYTES)
            commits = _checked(values)
        except FederationError as error:
            raise ValueError(line(error)) from None
    if name == DONE:
        return JournalState(commits, f"done {commits}")
    staged, deleted = values["staged"], frozenset(values["deleted"])
    return JournalState(commits, f"pending {commits}", staged, deleted)


def _checked(values: Any) -> int:
    """Return the number of commits, if every path and name in the journal is
    allowed.
    """
    for path in [*values["staged"], *values["deleted"]]:
        check_path(path)
    if not all(STAGED.fullmatch(name) for name in values["staged"].values()):
        raise ValueError("name of a staged file")
    if type(values["commits"]) is not int or values["commits"] < 0:
        raise ValueError("number of commits")
    return int(values["commits"])
