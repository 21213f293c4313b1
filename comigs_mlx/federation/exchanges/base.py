"""The one interface through which a federation's files are read and written.

An `Exchange` is a repository of files with a history of commits: a Hub model repository
(`hub`), a folder (`folder`) or memory (`memory`). Only the `changes` of a `commit` ever
leave this device, and only the files that `read` names are downloaded.

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
"""Maps a path to its new content; None deletes the file, if it is there."""


class Moved(FederationError):
    """The error when another commit came first: read a new snapshot and decide
    again.
    """

    kind = "moved"


class NotThere(FederationError):
    """The error for a repository, branch or file that is missing or hidden from us."""

    kind = "nowhere"


class NotAllowed(FederationError):
    """The error when this account or process has no right, or the path is refused."""


class TooLarge(FederationError):
    """The error for a file larger than the caller accepts; it is not read to its
    end.
    """


class Unreachable(FederationError):
    """The error of a request that may succeed later; nothing is wrong with it.

    Attributes:
        after: The seconds that the other side asked to wait, where it said so.
        passing: Whether trying again soon makes sense.
        maybe_done: Whether the request may have been carried out all the same.
    """

    kind = "unreachable"

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
    """The entry of one file in a listing.

    Attributes:
        size: The bytes of the file.
        sha256: The SHA-256 of the content, in hexadecimal, where the listing knows it.
        blob: git's name of the content (a SHA-1 in hexadecimal), where the listing
            knows it and the content is not kept as LFS.
    """

    size: int
    sha256: str | None = None
    blob: str | None = None

    def has(self, content: bytes) -> bool:
        """Tell whether the file has this content, as far as the listing can tell."""
        if len(content) != self.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        return self.blob is None or self.blob == blob_of(content)


def blob_of(content: bytes) -> str:
    """Return git's name of a file with this content: no secret, but it shows damage."""
    head = b"blob %d\0" % len(content)
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


def undamaged(path: str, file: File, content: bytes) -> bytes:
    """Return `content` if it is what the listing says; every `read` ends here.

    Raises:
        Unreachable: If it is not: the connection is to blame, and reading again may
            help.
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
        files: Maps a path to the listing's entry of the file; empty for a new
            repository.
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
    """A repository; each method may raise `Unreachable`, `NotAllowed`,
    `FederationError`.
    """

    uri: str

    def account(self) -> str | None:
        """Return the account that commits here; None if it is not known (a folder)."""

    def create(self, private: bool = False) -> None:
        """Make the repository; one that is there already stays as it is.

        Raises:
            NotAllowed: If `private` is asked for, and the repository exists and is
                public.
        """

    def snapshot(self) -> Snapshot:
        """Return the files as they are now.

        Raises:
            NotThere: If there is no such repository (or branch), or this account may
                not see it.
        """

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Return the content of the file at `path`.

        It is compared with the listing's SHA-256 or git's hash, if there is one, and
        read again if the connection damaged it. So if anything is wrong with the bytes
        that come back, their author wrote it.

        Raises:
            TooLarge: If the listing says so; nothing is read then.
            NotThere: If there was no such file.
            Moved: If the exchange keeps no history and the file has changed since.
        """

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return the account that last committed each path, up to `revision`.

        An account is None where it is not known; missing paths are left out.
        """

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return the account that first committed each path's content at `revision`.

        It searches the history some fifty commits back. Where no account is known, it
        answers as `authors` does.
        """

    def before(self, path: str, revision: str) -> Snapshot | None:
        """Return the files as they were just before the last change of `path`.

        It is None where the history does not reach back that far (it was squashed), or
        where there is none (a folder).
        """

    def committed(self, path: str, revision: str) -> float | None:
        """Return when `path` was last committed, in seconds since the epoch.

        The time is by the exchange's own clock, not by the committer's; None where it
        has none.
        """

    def clock(self) -> float | None:
        """Return the time by the exchange's own clock, in seconds since the epoch,
        if any.
        """

    def known_as(self, account: str) -> str | None:
        """Return the name that an account has now; None if no account has it."""

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
        """Return the open proposals, oldest first; [] where there can be none."""

    def proposed(self, number: int) -> tuple[Snapshot, frozenset[str]]:
        """Return the state of a proposal, and the paths that it changes.

        The state's revision is for `read` and `authors`. The paths are those that it
        adds, changes or deletes, also paths that are never listed.

        Raises:
            NotThere: If no proposal has this number.
        """

    def dismiss(self, number: int, comment: str) -> None:
        """Close a proposal, saying why. There is no merging: see `pull_requests`.

        Raises:
            NotThere: If no open proposal has this number.
        """

    def url(self, path: str = "") -> str:
        """Return the address where a user can look at `path`, or at the repository."""
