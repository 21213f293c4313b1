"""The repositories of the loopback Hub: accounts, rights, commits, pull requests."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field

DATE = "2026-11-22T10:00:00.000Z"


class Refused(Exception):
    """An error answer: status, X-Error-Code, text, further headers."""

    def __init__(self, status, code="", text="", headers=()):
        super().__init__(f"{status} {code} {text}")
        self.status, self.code, self.text = status, code, text
        self.headers = dict(headers)


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
    authors: tuple[str | None, ...]  # None: an address no account is linked to
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
    lfs: dict[str, bytes] = field(default_factory=dict)
    moves: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    busy: threading.Lock = field(default_factory=threading.Lock)
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

    def seen(self, name, lag):
        """The commit that an answer `lag` seconds behind gives for a branch."""
        until = time.monotonic() - lag
        moves = self.moves.get(name, [])
        old = [oid for moment, oid in moves if moment <= until] or [
            oid for _, oid in moves[:1]
        ]
        return self.revision(old[-1] if old and lag else name)

    def put(self, ref, oid):
        """Let a branch be at a commit: also how an older state is put back."""
        self.refs[ref] = oid
        self.moves.setdefault(ref, []).append((time.monotonic(), oid))

    def squash(self, ref, user, message):
        """One commit of `user` in place of a branch's history."""
        with self.lock:
            files = dict(self.revision(ref).files)
            return self._add(ref, None, (user,), message, "", files)

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
        found, now = self.revision(name), self.revision(name).files[path]
        for commit in self.history(name):
            if commit.files.get(path) != now:
                return found
            found = commit
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
            self.put(f"refs/pr/{number}", start)
            return number, self.commit(f"refs/pr/{number}", user, title, "", changes)

    def draft(self, user, title):
        """An empty pull request, a draft until somebody opens it."""
        with self.lock:
            number = len(self.pulls) + 1
            start = self.revision("main").oid
            self.pulls[number] = Pull(number, user, title, start, "draft")
            self.put(f"refs/pr/{number}", start)
            return self.pulls[number]

    def pull(self, number):
        if number not in self.pulls:
            raise Refused(404, "", "No such discussion")
        return self.pulls[number]

    def change(self, number, status, comment):
        with self.lock:
            pull = self.pull(number)
            if (pull.status, status) not in STEPS:
                raise Refused(409, "", "This pull request is not open")
            pull.status, pull.comment = status, comment

    def merge(self, number, user):
        with self.lock:
            pull, head = self.pull(number), self.revision(f"refs/pr/{number}")
            if pull.status != "open":
                raise Refused(400, "", f"Cannot merge a {pull.status} pull request")
            base, now = self.revision(pull.base).files, self.revision("main")
            files = {**now.files}
            for path in {*base, *head.files}:
                if base.get(path) != head.files.get(path):
                    files.pop(path, None)
                    if path in head.files:
                        files[path] = head.files[path]
            pull.status = "merged"
            return self._add("main", now.oid, (user,), pull.title, "", files)

    def ignored(self, ref, path):
        listed = self.revision(ref).files.get(".gitignore")
        patterns = listed.content.decode().split() if listed else []
        return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)

    def _add(self, ref, parent, authors, title, message, files):
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(oid, parent, authors, title, message, files)
        self.put(ref, oid)
        return oid


STEPS = {("draft", "open"), ("open", "closed"), ("draft", "closed"), ("closed", "open")}


@dataclass
class Store:
    """All repositories; `users` is token -> account, `renamed` old -> new name."""

    users: dict[str, str] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    parts: dict[tuple[str, str, int], bytes] = field(default_factory=dict)

    def create(self, name, owner, private=False):
        repo = self.repos[name] = Repo(name, owner, private)
        attributes = Stored(b"*.safetensors filter=lfs\n", False)
        start = {".gitattributes": attributes}
        repo._add("main", None, (owner,), "initial commit", "", start)
        return repo

    def rename(self, old, new):
        """Requests for the old name are sent on to the new one."""
        self.repos[new] = self.repos.pop(old)
        self.repos[new].name = self.renamed[old] = new

    def rename_account(self, old, new):
        """Everything of the account goes on under its new name."""
        self.accounts[old] = new
        self.users = {t: new if u == old else u for t, u in self.users.items()}
        for repo in self.repos.values():
            if old in repo.rights:
                repo.rights[new] = repo.rights.pop(old)
            for oid, one in repo.commits.items():
                authors = tuple(new if a == old else a for a in one.authors)
                repo.commits[oid] = dataclasses.replace(one, authors=authors)

    def delete(self, name):
        """The repository goes, and with it its LFS objects."""
        gone = self.repos.pop(name, None)
        if gone is None:
            raise Refused(404, "RepoNotFound", "not found")
        self.forgotten.update(gone.lfs)
