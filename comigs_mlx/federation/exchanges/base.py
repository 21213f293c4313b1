"""The one door through which a federation's files come and go.

An `Exchange` is a repository of files with a history of commits: a Hub model repository
(`hub`), a folder (`folder`) or memory (`memory`). Nothing but what is in the `changes`
of a `commit` ever leaves this device, and nothing is downloaded but what `read` names.

Paths are relative and separated by `/`. No part of one begins with a dot: hidden files
(`.git`, `.gitattributes`, our own journal) are neither listed, read nor written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from comigs_mlx.errors import FederationError
from comigs_mlx.messages import Say as Say

Changes = Mapping[str, bytes | None]
"""Path -> new content; None deletes (also what is not there)."""


class Moved(FederationError):
    """Somebody else committed first: read a new snapshot and decide again."""


class NotThere(FederationError):
    """A repository, branch or file is missing, or may not be seen by this account."""


class NotAllowed(FederationError):
    """This account or process has no right to do it, or the path is refused."""


class TooLarge(FederationError):
    """A file is larger than the caller accepts; it was not read to its end."""


class Unreachable(FederationError):
    """It may work later; nothing is known to be wrong with the request itself.

    Attributes:
        after: How many seconds the other side asked to wait, where it said so.
        passing: Whether trying again soon makes sense.
        maybe_done: Whether the request may have been carried out all the same.
    """

    def __init__(
        self,
        text: str,
        after: float | None = None,
        passing: bool = True,
        maybe_done: bool = True,
    ):
        super().__init__(text)
        self.after, self.passing, self.maybe_done = after, passing, maybe_done


@dataclass(frozen=True)
class File:
    """What a listing says of one file.

    Attributes:
        size: How many bytes the file has.
        sha256: The SHA-256 of the content, in hexadecimal, where the listing knows it.
        blob: git's name of the content (a SHA-1 in hexadecimal), where the listing
            knows it and the content is not kept as LFS.
    """

    size: int
    sha256: str | None = None
    blob: str | None = None

    def has(self, content: bytes) -> bool:
        """Whether `content` is this file's, as far as the listing can tell."""
        if len(content) != self.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        return self.blob is None or self.blob == blob_of(content)


def blob_of(content: bytes) -> str:
    """git's name of a file with this content: no secret, but it tells damage."""
    head = b"blob %d\0" % len(content)
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


def undamaged(path: str, file: File, content: bytes) -> bytes:
    """`content`, if it is what the listing says; every exchange's `read` ends here.

    Raises:
        Unreachable: If it is not: the line is to blame, and reading again may help.
    """
    if not file.has(content):
        raise Unreachable(f"{path} was damaged on its way here: try again")
    return content


@dataclass(frozen=True)
class Snapshot:
    """All files at one moment.

    Attributes:
        revision: The name of this state, for `read`, `authors` and, as `parent`, for
            `commit`.
        files: Path -> what the listing says of the file; empty for a new repository.
    """

    revision: str
    files: dict[str, File] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """Changes offered to the repository's owner (a pull request).

    Attributes:
        number: The number that `proposed` and `dismiss` know it by.
        author: The account that opened it.
    """

    number: int
    title: str
    author: str | None
    url: str


class Exchange(Protocol):
    """Every method may raise `Unreachable`, `NotAllowed` and `FederationError`."""

    uri: str

    def account(self) -> str | None:
        """Who commits here; None where nobody is known (a folder, no login)."""

    def create(self, private: bool = False) -> None:
        """Make the repository; one that is there already stays as it is.

        Raises:
            NotAllowed: Where `private` is asked for and it is there and public.
        """

    def snapshot(self) -> Snapshot:
        """The files as they are now.

        Raises:
            NotThere: If there is no such repository (or branch), or this account may
                not see it.
        """

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """The content of the file at `path`.

        It is what the listing says, by its SHA-256 or git's hash where there is one:
        damaged on its way it is read again. So whatever is wrong with the bytes that
        come back, their author wrote it.

        Raises:
            TooLarge: If the listing says so; nothing is read then.
            NotThere: If there was no such file.
            Moved: If the exchange keeps no history and the file has changed since.
        """

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Path -> the account that last committed it, up to `revision`.

        None where it is not known; paths that are not there are left out.
        """

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Path -> the account that first committed the content it has at `revision`.

        As far back as the history goes and this looks: some fifty commits. Where
        nobody is known, as `authors`.
        """

    def before(self, path: str, revision: str) -> Snapshot | None:
        """The files as they were just before the last change of `path`.

        None where the history does not reach back that far (it was squashed), or where
        there is none (a folder).
        """

    def committed(self, path: str, revision: str) -> float | None:
        """When `path` was last committed, in seconds since the epoch.

        By the exchange's own clock, whatever the clock of who committed; None where it
        has none.
        """

    def clock(self) -> float | None:
        """Seconds since the epoch by the exchange's own clock; None: it has none."""

    def known_as(self, account: str) -> str | None:
        """The name that an account has now; None where there is none of that name."""

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Write all of `changes`, or nothing; return a revision that has them.

        Args:
            changes: The content to write of each path; None deletes it.
            message: The one line that the history shows.
            parent: The only state that the commit may build upon; None means any.

        Raises:
            Moved: If `parent` is given and no longer the newest state.
        """

    def check_writable(self) -> None:
        """Raise `NotAllowed` or `NotThere` where a commit could not succeed."""

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Offer `changes` to the owner; return where to look at the proposal.

        Raises:
            NotAllowed: Where there are no proposals.
        """

    def proposals(self) -> list[Proposal]:
        """The open ones, oldest first; none where there are no proposals."""

    def proposed(self, number: int) -> tuple[Snapshot, frozenset[str]]:
        """What a proposal holds now, and the paths that it adds, changes or deletes.

        The revision is for `read` and `authors`; paths may be such as are never listed.

        Raises:
            NotThere: If no proposal has this number.
        """

    def dismiss(self, number: int, comment: str) -> None:
        """Close a proposal, saying why. There is no merging: see `pull_requests`.

        Raises:
            NotThere: If no open proposal has this number.
        """

    def url(self, path: str = "") -> str:
        """Where a person looks at `path`, or at the whole repository."""
