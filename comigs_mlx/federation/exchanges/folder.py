"""A folder as an exchange: a shared drive, a git checkout, a test.

A revision is the number of commits made through this program and a digest of all names,
sizes and times, so that a change in any other way (git pull, by hand) counts too.
There is no history: a file can be read at a revision until it changes. Readers need
neither the lock nor the right to write, and see each commit whole or not at all (see
`folder_journal`). Links are neither listed nor followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from comigs_mlx.federation.exchanges.base import (
    Changes,
    File,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Snapshot,
    Unreachable,
)
from comigs_mlx.federation.exchanges.folder_files import (
    FileStamp,
    clear,
    is_linked,
    read_file,
    stamp_of,
    walk,
)
from comigs_mlx.federation.exchanges.folder_journal import HIDDEN, Journal, JournalState
from comigs_mlx.federation.exchanges.paths import check_changes, check_path, check_size

TRIES = 100
"""The number of listings that commits may overtake before it gives up."""

KEPT = 16
"""The number of listings that are remembered for `read`."""


class FolderExchange:
    """The folder at `root` (see `base.Exchange` for the methods)."""

    def __init__(
        self, root: Path | str, account: str | None = None, patience: float = 300.0
    ):
        self.root = Path(os.path.abspath(root))
        self.uri = str(root)
        self.name, self.patience = account, patience
        self.journal = Journal(self.root)
        self._listings: dict[str, dict[str, FileStamp]] = {}

    def account(self) -> str | None:
        """Return the given name; a folder does not know who writes to it."""
        return self.name

    def create(self, private: bool = False) -> None:
        """Make the folder."""
        with clear(self.root):
            self.root.mkdir(
                parents=True, exist_ok=True, mode=0o700 if private else 0o777
            )

    def snapshot(self) -> Snapshot:
        """Return the files as they are now."""
        if not self.root.is_dir():
            raise NotThere(
                f"there is no folder {self.root}: check --federation, or make one with "
                "python -m comigs_mlx.sync init"
            )
        with clear(self.root, "read"):
            state, entries = self._listing()
        revision = _revision(state, entries)
        self._listings[revision] = entries
        for old in list(self._listings)[:-KEPT]:
            del self._listings[old]
        files = {path: File(entry.size) for path, entry in entries.items()}
        return Snapshot(revision, files)

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Read the file, while it is as it was at `revision`."""
        check_path(path)
        if revision not in self._listings and self.snapshot().revision != revision:
            raise Moved(f"{self.root} has changed since: read a new snapshot")
        entry = self._listings[revision].get(path)
        if entry is None:
            raise NotThere(f"there was no file {path} in {self.root}")
        check_size(path, entry.size, max_bytes)
        with clear(self.root, "read"):
            content = self._content(path, entry)
        if content is None:
            raise Moved(f"{path} has changed since: read a new snapshot")
        return content

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return None for each path: all who can write to the folder are trusted."""
        entries = self._listings.get(revision) or self.snapshot().files
        return {path: None for path in paths if path in entries}

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return None for each path."""
        return self.authors(paths, revision)

    def before(self, path: str, revision: str) -> Snapshot | None:
        """Return None: a folder has no history."""
        del path, revision
        return None

    def committed(self, path: str, revision: str) -> float | None:
        """Return the file system's time, which on a shared drive is its server's."""
        entries = self._listings.get(revision, {})
        return entries[path].time / 1e9 if path in entries else None

    def clock(self) -> float | None:
        """Return the time that a file gets when it is touched now, if that is
        allowed.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            handle = os.open(self.root / HIDDEN / "clock", flags, 0o666)
        except OSError:
            return None
        with open(handle, "wb") as touched:
            os.utime(touched.fileno())
            return os.fstat(touched.fileno()).st_mtime

    def known_as(self, account: str) -> str | None:
        """Return the name itself: in a folder no account is renamed."""
        return account

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Write all of `changes`, or nothing."""
        check_changes(changes, message)
        if not self.root.is_dir():
            self.snapshot()  # says what is wrong
        with clear(self.root), self._locked():
            self.journal.finish()
            before = self.snapshot()
            if parent is not None and parent != before.revision:
                raise Moved(f"somebody wrote to {self.root} first: read it again")
            real = {
                p: c for p, c in changes.items() if c is not None or p in before.files
            }
            if not real:
                return before.revision
            self._check_places(real)
            self._apply(real)
            return self.snapshot().revision

    def check_writable(self) -> None:
        """Take the lock, which writes to the folder."""
        self.snapshot()
        with clear(self.root), self._locked():
            pass

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Refuse: a folder has no proposals."""
        del changes, message, description
        raise NotAllowed(
            f"{self.root} is a folder and has no pull requests: leave --create-pr out"
        )

    def proposals(self) -> list[Proposal]:
        """Return []: a folder has no proposals."""
        return []

    def proposed(self, number: int) -> tuple[Snapshot, frozenset[str]]:
        """Refuse: a folder has no proposals."""
        raise NotThere(f"{self.root} is a folder: there is no proposal {number}")

    def dismiss(self, number: int, comment: str) -> None:
        """Refuse: a folder has no proposals."""
        del comment
        raise NotThere(f"{self.root} is a folder: there is no proposal {number}")

    def url(self, path: str = "") -> str:
        """Return the path of the file."""
        return str(self.root / path)

    def _apply(self, changes: Changes) -> None:
        commits = self.journal.state().commits + 1
        try:
            staged = self.journal.stage(changes)
            self.journal.begin(commits, changes, staged)
        except BaseException:
            if not self.journal.state().staged:
                self.journal.sweep()
            raise
        self.journal.finish()

    def _check_places(self, changes: Changes) -> None:
        """Raise if a file would take a folder's place, or the reverse."""
        for path in changes:
            parents = [self.root / parent for parent in Path(path).parents]
            if is_linked(self.root, path):
                raise NotAllowed(f"{path} is reached through a link: remove the link")
            if (self.root / path).is_dir() or any(p.is_file() for p in parents):
                raise NotAllowed(f"{path} would be a file and a folder: rename it")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        if (self.root / HIDDEN).is_symlink():
            raise NotAllowed(f"{self.root / HIDDEN} is a link: remove it")
        self.journal.prepare()
        lock = FileLock(self.root / HIDDEN / "lock", timeout=self.patience)
        try:
            lock.acquire()
        except Timeout:
            raise Unreachable(
                f"another process has been writing to {self.root} for "
                f"{self.patience:.0f} s: try again when it has ended",
                maybe_done=False,
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _listing(self) -> tuple[JournalState, dict[str, FileStamp]]:
        """Return the journal and all files between two steps of commits."""
        for _ in range(TRIES):
            state = self.journal.state()
            try:
                entries = self._scan(state)
            except FileNotFoundError:  # it was moved meanwhile
                continue
            if self.journal.state().token == state.token:
                return state, entries
        raise Unreachable(f"{self.root} is being written to all the time: try again")

    def _scan(self, state: JournalState) -> dict[str, FileStamp]:
        # Staged files are looked at first: one that has gone by then is in its place
        # when the folder is walked.
        staged = {}
        for path, name in state.staged.items():
            place = f"{HIDDEN}/{name}"
            with contextlib.suppress(FileNotFoundError):
                if not is_linked(self.root, place):
                    staged[path] = stamp_of((self.root / place).lstat())
        entries = {**dict(walk(self.root)), **staged}
        return {p: e for p, e in sorted(entries.items()) if p not in state.deleted}

    def _content(self, path: str, entry: FileStamp) -> bytes | None:
        """Read the file, staged or in its place; return None if it is not `entry`
        any more.
        """
        staged = self.journal.state().staged.get(path)
        places = [f"{HIDDEN}/{staged}"] if staged else []
        for place in [*places, path]:
            if is_linked(self.root, place):
                raise NotAllowed(f"{path} is a link: it is not read")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                content = read_file(self.root / place, entry)
                if content is not None:
                    return content
        return None


def _revision(state: JournalState, entries: dict[str, FileStamp]) -> str:
    digest = hashlib.sha256()
    for path, entry in entries.items():
        digest.update(f"{path}\0{entry.size}\0{entry.time}\n".encode())
    return f"{state.commits}-{digest.hexdigest()[:16]}"
