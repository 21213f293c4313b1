"""The repositories of the loopback Hub: accounts, rights, commits, pull requests."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import secrets
import threading
from dataclasses import dataclass, field

DATE = "2026-11-22T10:00:00.000Z"


class Refused(Exception):
    """An error answer: status, X-Error-Code, text."""

    def __init__(self, status, code="", text=""):
        super().__init__(f"{status} {code} {text}")
        self.status, self.code, self.text = status, code, text


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Stored:
    content: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self):
        """What preupload compares: sha256 for LFS, git's hash otherwise."""
        return self.sha256 if self.lfs else git_hash(self.content)

    def describe(self, path):
        pointer = f"version https://git-lfs\noid sha256:{self.sha256}\n".encode()
        told = {
            "type": "file",
            "path": path,
            "size": len(self.content),
            "oid": git_hash(pointer if self.lfs else self.content),
        }
        if self.lfs:
            size = len(self.content)
            told["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": 130}
        return told


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    authors: tuple[str, ...]
    title: str
    message: str
    files: dict[str, Stored]


@dataclass
class Pull:
    number: int
    author: str
    title: str
    base: str
    status: str = "open"
    comment: str = ""


@dataclass
class Repo:
    name: str
    owner: str
    private: bool = False
    gated: bool = False
    rights: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, Pull] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def right(self, user):
        """none, read or write."""
        if user is not None and user == self.owner:
            return "write"
        return self.rights.get(user, "none" if self.private else "read")

    def revision(self, name):
        oid = self.refs.get(name, name)
        if oid not in self.commits:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return self.commits[oid]

    def history(self, name):
        """Newest first."""
        commit = self.revision(name)
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.commits[commit.parent]

    def last_commit(self, path, name):
        """The commit that put the file at `path` there as it is at `name`."""
        now = self.revision(name).files[path]
        for older, newer in itertools.pairwise(reversed([*self.history(name)])):
            if newer.files.get(path) == now != older.files.get(path):
                found = newer
        return found

    def commit(self, ref, user, title, message, changes, parent=None):
        """Add one commit to `ref`; `changes` is path -> Stored, None deletes."""
        with self.lock:
            head = self.revision(ref)
            if parent is not None and parent != head.oid:
                raise Refused(412, "", "A commit has happened since. Please refresh")
            missing = [p for p, c in changes.items() if not c and p not in head.files]
            if missing:
                raise Refused(
                    404, "EntryNotFound", "A file with this name doesn't exist"
                )
            files = {**head.files, **changes}
            files = {path: file for path, file in files.items() if file is not None}
            others = [
                line.split(":", 1)[1].strip()
                for line in message.splitlines()
                if line.lower().startswith("co-authored-by:")
            ]
            return self._add(ref, head.oid, (user, *others), title, message, files)

    def propose(self, user, title, base, changes):
        with self.lock:
            number = len(self.pulls) + 1
            start = self.revision(base).oid
            self.pulls[number] = Pull(number, user, title, start)
            self.refs[f"refs/pr/{number}"] = start
            return number, self.commit(f"refs/pr/{number}", user, title, "", changes)

    def close(self, number, comment):
        with self.lock:
            pull = self.pulls.get(number)
            if pull is None:
                raise Refused(404, "", "No such discussion")
            if pull.status != "open":
                raise Refused(409, "", "This pull request is not open")
            pull.status, pull.comment = "closed", comment

    def ignored(self, ref, path):
        listed = self.revision(ref).files.get(".gitignore")
        patterns = listed.content.decode().split() if listed else []
        return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)

    def _add(self, ref, parent, authors, title, message, files):
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(oid, parent, authors, title, message, files)
        self.refs[ref] = oid
        return oid


@dataclass
class Store:
    """All repositories; `users` is token -> account."""

    users: dict[str, str] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def create(self, name, owner, private=False):
        repo = self.repos[name] = Repo(name, owner, private)
        attributes = Stored(b"*.safetensors filter=lfs\n", False)
        start = {".gitattributes": attributes}
        repo._add("main", None, (owner,), "initial commit", "", start)
        return repo
