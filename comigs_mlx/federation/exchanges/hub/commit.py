"""Makes sure that a commit on the Hub has landed, or may be tried again.

The Hub's answer can be lost after the commit has landed, and a second try upon the same
parent would then fail. And where the library finds nothing to change, it does not look
at the parent at all. So each try begins by reading what is there.
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
"""The ending of the files that the Hub keeps as LFS."""

MOVED = "somebody committed first: read again what is there now"


class Attempt:
    """One commit; a call is one try and returns a revision that has the changes.

    Args:
        head: Returns the branch's newest revision.
        entries: Takes paths and a revision; returns, by path, the entry that the
            library has of each.
        send: Takes changes and a parent; returns the new revision, and whether a commit
            was made.
        changes: The content to write and delete, as for `Exchange.commit`.
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
        """Try once; raise `Moved` or what the library raises."""
        head = self.head()
        existing = self._existing(head)
        if self.maybe_done and self._landed(existing):
            return head
        if self.parent not in (None, head):
            raise Moved(MOVED)
        real = {p: c for p, c in self.changes.items() if c is not None or p in existing}
        if not real:
            return head
        return self._send(real)

    def _send(self, changes: Changes) -> str:
        try:
            revision, is_new = self.send(changes, self.parent)
        except Exception as error:
            self.maybe_done = self.maybe_done or not _surely_refused(error)
            # 412, the parent is not the newest: perhaps because of our own commit,
            # whose answer was lost. The next try looks.
            if self.maybe_done and _status(error) == 412:
                raise Unreachable("the Hub's answer about a commit was lost") from None
            raise
        if not is_new:
            self._check_there(revision)
        return revision

    def _check_there(self, revision: str) -> None:
        """Check what is there, because the library made no commit and looked no
        further.
        """
        if self.parent not in (None, revision):
            raise Moved(MOVED)
        if not self._landed(self.entries(list(self.changes), revision)):
            # The library named the newest commit of an answer that is out of date.
            self.maybe_done = True
            raise Unreachable("the Hub does not show yet what was committed")

    def _existing(self, revision: str) -> dict[str, Any]:
        """Read the Hub's entries of our paths, if they are needed."""
        if not self.maybe_done and None not in self.changes.values():
            return {}
        return self.entries(list(self.changes), revision)

    def _landed(self, existing: dict[str, Any]) -> bool:
        return all(
            path not in existing
            if content is None
            else has_content(existing.get(path), content)
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
    """Call `create_commit` once; return its answer, and whether a commit was made."""
    all_operations = operations(changes)
    added = [o for o in all_operations if changes[o.path_in_repo] is not None]
    # They go one by one: the library would upload several in threads, which do not
    # inherit the time limits that `client.patiently` set for this one.
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
    """Hide the library's progress bar: it shows an upload of 0 files, all done
    before.
    """
    from huggingface_hub import utils

    were_shown = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            utils.enable_progress_bars()


def operations(changes: Changes) -> list[Any]:
    """Make fresh objects for each try: the library writes its progress into them."""
    hub = library()
    return [
        hub.CommitOperationDelete(path, is_folder=False)
        if content is None
        else hub.CommitOperationAdd(path, content)
        for path, content in changes.items()
    ]


def has_content(entry: Any, content: bytes) -> bool:
    """Tell whether the Hub's entry of a file (or None) has exactly `content`."""
    return entry is not None and file_of(entry).has(content)


def _surely_refused(error: Exception) -> bool:
    if isinstance(error, Unreachable):
        return not error.maybe_done
    status = _status(error)
    return status is not None and 400 <= status < 500


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
