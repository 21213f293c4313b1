"""A Hub model repository as an exchange; only this and `hub.commit` write there.

It settles what the Hub's commit call leaves open: a commit whose answer was lost is
found again by its content, a commit that changes nothing still respects its parent, and
files are never skipped in silence (a `.gitignore` in the repository).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from comigs_mlx.federation.exchanges.base import (
    Changes,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Say,
    Snapshot,
    Unreachable,
)
from comigs_mlx.federation.exchanges.hub import commit, reading
from comigs_mlx.federation.exchanges.hub.client import library, patiently, version
from comigs_mlx.federation.exchanges.hub.errors import (
    Garbled,
    Missing,
    NoFile,
    NoRevision,
)
from comigs_mlx.federation.exchanges.hub.known import Known
from comigs_mlx.federation.exchanges.hub.newest import Newest
from comigs_mlx.federation.exchanges.paths import check_changes, check_path, check_size
from comigs_mlx.federation.formats.redaction import clean

T = TypeVar("T")


class HubExchange:
    """The model repository `repo` (see `base.Exchange` for the methods)."""

    def __init__(
        self,
        repo: str,
        branch: str = "main",
        endpoint: str | None = None,
        token: str | bool | None = None,
        patience: float = 300.0,
        say: Say = lambda line: None,
    ):
        self.repo, self.branch = repo, branch
        self.uri = f"hf://{repo}" + ("" if branch == "main" else f"@{branch}")
        self.patience, self.say = patience, say
        self._endpoint, self._token = endpoint, token
        self._made: Any = None
        self._account: str | None = None
        self._known = Known()
        self._newest = Newest(lambda oid: reading.recent(self._api, repo, oid))
        self._was_there = False
        self._offered: set[int] = set()

    def account(self) -> str | None:
        """Return the account that the token belongs to; None without a token."""
        if self._account is None:
            headers = self._ask(lambda: reading.headers(self._api))
            if "authorization" in headers:
                self._account = self._ask(lambda: self._api.whoami()["name"])
        return self._account

    def create(self, private: bool = False) -> None:
        """Make the repository, and the branch where one is given."""
        self._ask(lambda: self._create(private))

    def snapshot(self) -> Snapshot:
        """Return the branch's newest commit."""
        return self._ask(lambda: self._listed(self._head()))

    def read(self, path: str, revision: str, max_bytes: int) -> bytes:
        """Read a file of any commit; small files are remembered by their hash, in
        memory.
        """
        check_path(path)
        api, repo = self._api, self.repo

        def action() -> bytes:
            # A listing can be damaged as well: each further try asks for the file's
            # entry again.
            files = self._known.listing(revision) if not tries else None
            tries.append(None)
            if files is None:
                files = reading.files(api, repo, [path], revision)
            if path not in files:
                raise NotThere(f"{path} is not in {repo} at {revision}")
            file = files[path]
            check_size(path, file.size, max_bytes)
            place = path, revision, file
            return self._known.content(file, lambda: reading.content(api, repo, *place))

        tries: list[None] = []
        with self._rewritten(revision):
            return self._ask(action)

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return the first author of each path's last commit, the committing account.

        The other authors of a commit come from its text (`Co-authored-by`), which
        anybody can write.
        """
        requested = list(paths)
        with self._rewritten(revision):
            return self._ask(
                lambda: reading.authors(
                    self._api, self.repo, requested, revision, self._known.authors
                )
            )

    def origins(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Search the history commit by commit; answers are remembered by content."""
        api, repo, authors = self._api, self.repo, self._known.authors

        def ask(new: list[str]) -> dict[str, str | None]:
            return reading.origins(api, repo, new, revision, authors, self._ask)

        with self._rewritten(revision):
            return self._known.origins(paths, revision, ask)

    def before(self, path: str, revision: str) -> Snapshot | None:
        """Search the history; what a commit builds upon never changes."""
        api, repo, parents = self._api, self.repo, self._known.parents
        with self._rewritten(revision):
            earlier = self._ask(
                lambda: reading.before(api, repo, path, revision, parents)
            )
            return None if earlier is None else self._ask(lambda: self._listed(earlier))

    def committed(self, path: str, revision: str) -> float | None:
        """Return the date of the last commit of `path`."""
        with self._rewritten(revision):
            return self._ask(
                lambda: reading.committed(self._api, self.repo, path, revision)
            )

    def clock(self) -> float | None:
        """Return the date of one of the Hub's answers."""
        return self._ask(lambda: reading.clock(self._api, self.repo))

    def known_as(self, account: str) -> str | None:
        """Return the name that the Hub redirects an account's old name to."""
        return self._ask(lambda: reading.known_as(self._api, account))

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Commit by `create_commit`, tried again until it has surely landed once."""
        check_changes(changes, message)

        def entries(paths: list[str], revision: str) -> dict[str, Any]:
            return reading.entries(self._api, self.repo, paths, revision)

        def send(real: Changes, parent: str | None) -> tuple[str, bool]:
            info, is_new = commit.send(
                self._api, self.repo, self.branch, real, message, parent
            )
            note = self._newest.committed if is_new else self._newest.latest
            note(str(info.oid))
            return str(info.oid), is_new

        attempt = commit.Attempt(self._head, entries, send, changes, parent)
        return self._ask(
            attempt, lambda error: parent is None and isinstance(error, Moved)
        )

    def check_writable(self) -> None:
        """Ask the Hub about this account's right to write."""
        self._ask(lambda: self._api.auth_check(self.repo, write=True))

    def propose(self, changes: Changes, message: str, description: str = "") -> str:
        """Open a pull request with one commit; needs an account, no right to write."""
        check_changes(changes, message)
        tries: list[None] = []

        def action() -> str:
            if tries and (number := self._proposed(message)) is not None:
                return self._proposal_url(number)
            tries.append(None)
            info, _ = commit.send(
                self._api,
                self.repo,
                self.branch,
                changes,
                message,
                create_pr=True,
                text=description,
            )
            return clean(str(info.pr_url or self._proposal_url(info.pr_num)))

        return self._ask(action)

    def proposals(self) -> list[Proposal]:
        """List the open pull requests."""
        pulls = self._ask(lambda: reading.pulls(self._api, self.repo, "open"))
        self._offered.update(d.num for d in pulls)
        return [
            Proposal(d.num, d.title, d.author, self._proposal_url(d.num))
            for d in sorted(pulls, key=lambda d: d.num)
        ]

    def proposed(self, number: int) -> tuple[Snapshot, frozenset[str]]:
        """Compare a pull request with the commit of the branch that it builds upon."""
        api, repo = self._api, self.repo
        offered = number in self._offered
        head = self._ask(lambda: self._at(f"refs/pr/{number}"), was_there=offered)
        base = self._ask(lambda: reading.ancestor(api, repo, head, self.branch))
        changed = self._ask(lambda: reading.changed(api, repo, base, head))
        return self._ask(lambda: self._listed(head)), changed

    def dismiss(self, number: int, comment: str) -> None:
        """Close a pull request."""

        def action() -> None:
            status = {
                d.num: d.status for d in reading.pulls(self._api, self.repo, None)
            }.get(number)
            if tries and status == "closed":  # the answer was lost
                return
            if status not in ("open", "draft"):
                raise NotThere(
                    f"{self.repo} has no open pull request {number}: see sync status"
                )
            tries.append(None)
            self._api.change_discussion_status(
                self.repo, number, "closed", comment=comment
            )

        tries: list[None] = []
        self._ask(action)

    def url(self, path: str = "") -> str:
        """Return the page of the repository or a file."""
        page = clean(f"{self._api.endpoint}/{self.repo}")
        return f"{page}/blob/{self.branch}/{path}" if path else page

    @property
    def _api(self) -> Any:
        if self._made is None:
            self._made = library().HfApi(
                endpoint=self._endpoint,
                token=self._token,
                library_name="comigs_mlx",
                library_version=version(),
            )
        return self._made

    def _ask(
        self,
        action: Callable[[], T],
        again: Callable[[Exception], bool] = lambda error: False,
        was_there: bool = True,
    ) -> T:
        def passes(error: Exception) -> bool:
            seen_before = self._was_there and was_there
            return again(error) or (seen_before and isinstance(error, Missing))

        return patiently(action, self.repo, self.patience, self.say, passes)

    @contextlib.contextmanager
    def _rewritten(self, revision: str) -> Iterator[None]:
        """Translate errors of requests about `revision`, which the Hub itself has
        named.
        """
        try:
            yield
        except NoRevision:
            raise Moved(
                f"the history of {self.repo} was rewritten: read again what is there"
            ) from None
        except NoFile:
            raise Unreachable(
                f"a file that {self.repo} lists cannot be had: try again later"
            ) from None

    def _proposed(self, title: str) -> int | None:
        """Return an open pull request of ours with this title: its answer was lost."""
        pulls = reading.pulls(self._api, self.repo, "open")
        own = (title, self.account())
        numbers = [d.num for d in pulls if (d.title, d.author) == own]
        return max(numbers, default=None)

    def _proposal_url(self, number: int) -> str:
        return clean(f"{self._api.endpoint}/{self.repo}/discussions/{number}")

    def _listed(self, revision: str) -> Snapshot:
        files = self._known.listed(
            revision, lambda: reading.listing(self._api, self.repo, revision)
        )
        return Snapshot(revision, dict(files))

    def _head(self) -> str:
        return self._newest.latest(self._at(self.branch))

    def _at(self, ref: str) -> str:
        sha = self._api.model_info(self.repo, revision=ref, expand=["sha"]).sha
        if not isinstance(sha, str) or not re.fullmatch(r"[0-9a-f]{40,64}", sha):
            raise Garbled(f"the Hub names no commit of {self.repo}: try again later")
        self._was_there = True
        return sha

    def _create(self, private: bool) -> None:
        # The answer that it is there already may lack the address the library wants.
        with contextlib.suppress(KeyError):
            self._api.create_repo(self.repo, private=private, exist_ok=True)
        self._was_there = True  # if the Hub does not see it yet, it soon will
        if not self._api.model_info(self.repo, expand=["private"]).private and private:
            raise NotAllowed(
                f"{self.repo} is there already and public: make it private on its "
                "page, or drop --private"
            )
        if self.branch != "main":
            self._api.create_branch(self.repo, branch=self.branch, exist_ok=True)
