"""When a commit on the Hub has landed, and when it may be tried again.

The Hub can lose its answer after a commit landed, and its library, finding nothing to
change, does not look at the parent. So each try begins by looking at what is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Changes, Moved, Unreachable
from comigs_mlx.federation.exchanges.hub import internals
from comigs_mlx.federation.exchanges.hub.client import library
from comigs_mlx.federation.exchanges.hub.reading import file_of

LARGE = ".safetensors"
"""What the Hub keeps as LFS."""

MOVED = "somebody committed first: read again what is there now"


class Attempt:
    """One commit; called for each try, it returns a revision that has the changes.

    Args:
        head: A function that returns the branch's newest revision.
        entries: A function (paths, revision) -> path -> the entry that the library has
            of it.
        send: A function (changes, parent) -> the new revision, and whether a commit was
            made.
        changes: What to write and delete, as for `Exchange.commit`.
        parent: The only state to build upon, as for `Exchange.commit`.
    """

    def __init__(
        self,
        head: Callable[[], str],
        entries: Callable[[list[str], str], dict[str, Any]],
        send: Callable[[Changes, str | None], tuple[str, bool]],
        changes: Changes,
        parent: str | None,
    ):
        self.head, self.entries, self.send = head, entries, send
        self.changes, self.parent = changes, parent
        self.maybe_done = False

    def __call__(self) -> str:
        """One try; raises `Moved` or what the library raises."""
        head = self.head()
        there = self._there(head)
        if self.maybe_done and self._landed(there):
            return head
        if self.parent not in (None, head):
            raise Moved(MOVED)
        real = {p: c for p, c in self.changes.items() if c is not None or p in there}
        if not real:
            return head
        return self._send(real)

    def _send(self, changes: Changes) -> str:
        try:
            revision, is_new = self.send(changes, self.parent)
        except Exception as error:
            self.maybe_done = self.maybe_done or not _surely_refused(error)
            if self.maybe_done and _status(error) == 412:
                raise Unreachable("the Hub's answer about a commit was lost") from None
            raise
        if not is_new:
            self._check_there(revision)
        return revision

    def _check_there(self, revision: str) -> None:
        """Where the library found nothing to change, it looked at nothing else."""
        if self.parent not in (None, revision):
            raise Moved(MOVED)
        if not self._landed(self.entries(list(self.changes), revision)):
            # It names the newest commit that it knows, from an answer that lags.
            self.maybe_done = True
            raise Unreachable("the Hub does not show yet what was committed")

    def _there(self, revision: str) -> dict[str, Any]:
        """What the Hub has of our paths; asked for only where it matters."""
        if not self.maybe_done and None not in self.changes.values():
            return {}
        return self.entries(list(self.changes), revision)

    def _landed(self, there: dict[str, Any]) -> bool:
        return all(
            path not in there if content is None else same(there.get(path), content)
            for path, content in self.changes.items()
        )


def send(
    api: Any,
    repo: str,
    branch: str,
    changes: Changes,
    message: str,
    parent: str | None = None,
    create_pr: bool = False,
    text: str = "",
) -> tuple[Any, bool]:
    """One call of `create_commit`; its answer, and whether a commit was made."""
    all_operations = operations(changes)
    added = [o for o in all_operations if changes[o.path_in_repo] is not None]
    # One by one: several at once go to threads, where no limit of ours holds.
    for operation in added:
        if operation.path_in_repo.endswith(LARGE):
            api.preupload_lfs_files(
                repo,
                [operation],
                revision=branch,
                create_pr=create_pr,
                free_memory=False,
            )
    with _no_bars():
        info = api.create_commit(
            repo,
            all_operations,
            commit_message=message,
            commit_description=text,
            revision=branch,
            parent_commit=parent,
            create_pr=create_pr,
        )
    ignored = [o.path_in_repo for o in added if internals.is_ignored(o)]
    if ignored:
        raise FederationError(
            f"a .gitignore in {repo} kept {ignored[0]} out: delete that file there and "
            "try again"
        )
    return info, all(internals.is_committed(o) for o in added)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """The library shows an upload of 0 files, because all were uploaded before."""
    from huggingface_hub import utils

    shown = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def operations(changes: Changes) -> list[Any]:
    """Fresh objects for each try: the library writes its progress into them."""
    hub = library()
    return [
        hub.CommitOperationDelete(path, is_folder=False)
        if content is None
        else hub.CommitOperationAdd(path, content)
        for path, content in changes.items()
    ]


def same(entry: Any, content: bytes) -> bool:
    """Whether the Hub's entry of a file (or None) has exactly `content`."""
    return entry is not None and file_of(entry).has(content)


def _surely_refused(error: Exception) -> bool:
    if isinstance(error, Unreachable):
        return not error.maybe_done
    status = _status(error)
    return status is not None and 400 <= status < 500


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
