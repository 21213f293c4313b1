"""Reads a Hub repository: listings, contents, authors, pull requests.

Its functions take the library's `HfApi` and raise its errors, which `hub.client`
translates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, zip_longest
from typing import Any
from urllib.parse import quote

from comigs_mlx.federation.exchanges.base import File, undamaged
from comigs_mlx.federation.exchanges.hub.client import check_time
from comigs_mlx.federation.exchanges.paths import is_allowed

AT_ONCE = 500
"""The paths in one request; the Hub takes 1,000."""

RECENT = 20
"""The commits that `recent` reads: fewer than the Hub's page, so that one answer
has them.
"""

FAR = 50
"""The commits that are searched: a page of the Hub's."""

PIECE = 1 << 16
"""The bytes that are read of an answer at once."""


def headers(api: Any) -> dict[str, str]:
    """Return the headers of our requests, with the token that the library would
    choose.
    """
    from huggingface_hub.utils import build_hf_headers

    fields = build_hf_headers(
        token=api.token,
        library_name=api.library_name,
        library_version=api.library_version,
    )
    return {name: str(value) for name, value in fields.items()}


def listing(api: Any, repo: str, revision: str) -> dict[str, File]:
    """Return all files at `revision` that an exchange may hold, by path."""
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    return _files(tree)


def files(api: Any, repo: str, paths: Sequence[str], revision: str) -> dict[str, File]:
    """Return those of `paths` that are there, by path."""
    return _files(entries(api, repo, paths, revision).values())


def entries(
    api: Any, repo: str, paths: Sequence[str], revision: str, expand: bool = False
) -> dict[str, Any]:
    """Return the library's `RepoFile` of those of `paths` that are there, by path."""
    listed = []
    for start in range(0, len(paths), AT_ONCE):
        some = list(paths[start : start + AT_ONCE])
        listed += api.get_paths_info(repo, some, revision=revision, expand=expand)
    return {entry.path: entry for entry in listed if _is_file(entry)}


def content(api: Any, repo: str, path: str, revision: str, file: File) -> bytes:
    """Read one file as the listing has it, and stop if more bytes come.

    It uses the library's session, not its download, which writes to HF_HOME, has no
    limit, and accepts any bytes of the right number.

    Raises:
        Unreachable: If the bytes are not those of `file`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = hf_hub_url(repo, path, revision=revision, endpoint=api.endpoint)
    # identity: a compressed answer could be small on the way and huge here.
    fields = {**headers(api), "accept-encoding": "identity"}
    with get_session().stream("GET", url, headers=fields) as response:
        hf_raise_for_status(response)
        received = bytearray()
        for piece in response.iter_raw(PIECE):
            received += piece
            if len(received) > file.size:
                break
            check_time()
    return undamaged(path, file, bytes(received))


def authors(
    api: Any,
    repo: str,
    paths: Sequence[str],
    revision: str,
    known_authors: dict[str, str | None],
) -> dict[str, str | None]:
    """Return the first author of the last commit of each path, up to `revision`.

    `known_authors` maps the commits met so far to their first authors, and grows. A
    commit that is not in the newest page of the history is requested by itself, so that
    a long history costs no more than a short one.
    """
    last_commits = {
        path: getattr(entry.last_commit, "oid", None)
        for path, entry in entries(api, repo, paths, revision, expand=True).items()
    }
    commits = {oid for oid in last_commits.values() if oid is not None}
    if commits - known_authors.keys():
        known_authors.update(islice(_commits(api, repo, revision), FAR))
    for oid in commits - known_authors.keys():
        known_authors.update(islice(_commits(api, repo, oid), 1))
    return {
        path: known_authors.get(oid) if oid else None
        for path, oid in last_commits.items()
    }


def recent(api: Any, repo: str, revision: str) -> set[str]:
    """Return the newest commits up to `revision`, as many as come in one answer."""
    return {commit for commit, _ in islice(_commits(api, repo, revision), RECENT)}


def origins(
    api: Any,
    repo: str,
    paths: Sequence[str],
    revision: str,
    known_authors: dict[str, str | None],
    ask: Callable[[Callable[[], Any]], Any],
) -> dict[str, str | None]:
    """Return the account that first committed each path's content; see
    `Exchange.origins`.

    It makes one request for each of the newest `FAR` commits: it is for files that
    another account has committed again, which is rare. Each request goes through `ask`,
    which tries again.
    """
    now = ask(lambda: files(api, repo, paths, revision))
    remaining, firsts = set(now), dict[str, str | None]()
    newest = ask(lambda: list(islice(_commits(api, repo, revision), FAR)))
    for commit, _ in reversed(newest):
        if not remaining:
            break
        files_then = ask(partial(files, api, repo, sorted(remaining), commit))
        if first_paths := [
            path for path in remaining if files_then.get(path) == now[path]
        ]:
            firsts |= ask(
                partial(authors, api, repo, first_paths, commit, known_authors)
            )
            remaining.difference_update(first_paths)
    return firsts


def before(
    api: Any, repo: str, path: str, revision: str, known_parents: dict[str, str | None]
) -> str | None:
    """Return the commit that the last commit of `path`, up to `revision`, builds upon.

    `known_parents` maps revision and path to the path's last commit, and a commit to
    the one before, for those met so far; it grows.
    """
    place = f"{revision} {path}"
    if place not in known_parents:
        last_commit_of_path = _last_commit(api, repo, path, revision)
        known_parents[place] = (
            None if last_commit_of_path is None else str(last_commit_of_path.oid)
        )
    if (last_commit := known_parents[place]) is None:
        return None
    if last_commit not in known_parents:
        pair = [commit for commit, _ in islice(_commits(api, repo, last_commit), 2)]
        known_parents[last_commit] = pair[1] if len(pair) > 1 else None
    return known_parents[last_commit]


def committed(api: Any, repo: str, path: str, revision: str) -> float | None:
    """Return when `path` was last committed, in seconds since the epoch."""
    last_commit = _last_commit(api, repo, path, revision)
    return None if last_commit is None else float(last_commit.date.timestamp())


def clock(api: Any, repo: str) -> float | None:
    """Return the time of an answer, in seconds since the epoch, if it has one."""
    from email.utils import parsedate_to_datetime

    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = f"{api.endpoint}/api/models/{repo}?expand=sha"
    response = get_session().get(url, headers=headers(api))
    hf_raise_for_status(response)
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None


def _last_commit(api: Any, repo: str, path: str, revision: str) -> Any:
    entry = entries(api, repo, [path], revision, expand=True).get(path)
    return getattr(entry, "last_commit", None)


def known_as(api: Any, account: str) -> str | None:
    """Return the name that an account has now: its old address leads to the new one."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        name = api.get_user_overview(account).username
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", None) != 404:
            raise
        return None
    return str(name) if name else None


def ancestor(api: Any, repo: str, left: str, right: str) -> str | None:
    """Return the newest commit that two revisions have in common, if there is one."""
    met: tuple[set[str], set[str]] = (set(), set())
    histories = (_commits(api, repo, revision) for revision in (left, right))
    for pair in zip_longest(*histories):
        for own, others, commit in zip(met, reversed(met), pair, strict=True):
            if commit is not None:
                own.add(commit[0])
                if commit[0] in others:
                    return commit[0]
    return None


def changed(api: Any, repo: str, old: str | None, new: str) -> frozenset[str]:
    """List the paths that differ between two revisions, hidden ones too; None is
    empty.
    """
    before, after = ({} if at is None else _hashes(api, repo, at) for at in (old, new))
    return frozenset(
        path for path in {*before, *after} if before.get(path) != after.get(path)
    )


def pulls(api: Any, repo: str, status: str | None) -> list[Any]:
    """Return the library's pull requests with this status, or all."""
    return list(
        api.get_repo_discussions(
            repo, discussion_type="pull_request", discussion_status=status
        )
    )


def _commits(api: Any, repo: str, revision: str) -> Iterator[tuple[str, str | None]]:
    """Yield commits and their first authors, newest first, page by page.

    The library's own `list_repo_commits` reads the whole history before it returns.
    """
    from huggingface_hub.utils import paginate

    url = f"{api.endpoint}/api/models/{repo}/commits/{quote(revision, safe='')}"
    for item in paginate(url, params={}, headers=headers(api)):
        check_time()
        authors = item.get("authors") or [{}]
        yield item["id"], authors[0].get("user")


def _hashes(api: Any, repo: str, revision: str) -> dict[str, str]:
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {entry.path: entry.blob_id for entry in tree if _is_file(entry)}


def _files(tree: Any) -> dict[str, File]:
    listed = {}
    for entry in tree:
        if _is_file(entry) and is_allowed(entry.path):
            listed[entry.path] = file_of(entry)
    return listed


def file_of(entry: Any) -> File:
    """Convert the library's `RepoFile`; an LFS file's blob is that of its pointer."""
    if entry.lfs is not None:
        return File(int(entry.size), str(entry.lfs.sha256))
    return File(int(entry.size), None, str(entry.blob_id))


def _is_file(entry: Any) -> bool:
    return hasattr(entry, "blob_id")
