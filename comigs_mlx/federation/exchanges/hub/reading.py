"""What is read from a Hub repository: listings, contents, authors, pull requests.

Functions take the library's `HfApi` and raise its errors; `hub` translates them.
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
"""Paths in one question; the Hub takes 1,000."""

RECENT = 20
"""Commits; fewer than the Hub's page, so that one answer has them."""

FAR = 50
"""Commits; a page of the Hub's."""

PIECE = 1 << 16
"""Bytes."""


def headers(api: Any) -> dict[str, str]:
    """Headers of a request of ours, with the token the library would choose."""
    from huggingface_hub.utils import build_hf_headers

    fields = build_hf_headers(
        token=api.token,
        library_name=api.library_name,
        library_version=api.library_version,
    )
    return {name: str(value) for name, value in fields.items()}


def listing(api: Any, repo: str, revision: str) -> dict[str, File]:
    """Path -> file, of all files at `revision` that an exchange may hold."""
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    return _files(tree)


def files(api: Any, repo: str, paths: Sequence[str], revision: str) -> dict[str, File]:
    """Path -> file, of those of `paths` that are there."""
    return _files(entries(api, repo, paths, revision).values())


def entries(
    api: Any, repo: str, paths: Sequence[str], revision: str, expand: bool = False
) -> dict[str, Any]:
    """Path -> the library's `RepoFile`, of those of `paths` that are there."""
    listed = []
    for start in range(0, len(paths), AT_ONCE):
        some = list(paths[start : start + AT_ONCE])
        listed += api.get_paths_info(repo, some, revision=revision, expand=expand)
    return {entry.path: entry for entry in listed if _is_file(entry)}


def content(api: Any, repo: str, path: str, revision: str, file: File) -> bytes:
    """The bytes of one file as the listing has it, stopped where they are more.

    Through the library's session: what it downloads itself goes to HF_HOME, is not
    capped, and is accepted with other bytes of the right number.

    Raises:
        Unreachable: If they are not those of `file`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = hf_hub_url(repo, path, revision=revision, endpoint=api.endpoint)
    # identity: a compressed answer could be small on the way and huge here.
    fields = {**headers(api), "accept-encoding": "identity"}
    with get_session().stream("GET", url, headers=fields) as response:
        hf_raise_for_status(response)
        got = bytearray()
        for piece in response.iter_raw(PIECE):
            got += piece
            if len(got) > file.size:
                break
            check_time()
    return undamaged(path, file, bytes(got))


def authors(
    api: Any,
    repo: str,
    paths: Sequence[str],
    revision: str,
    known: dict[str, str | None],
) -> dict[str, str | None]:
    """Path -> first author of the last commit that touched it, up to `revision`.

    `known` is commit -> first author, of those met so far; it grows. What is not in
    the newest page of the history is asked for by itself, so that a long history costs
    no more than a short one.
    """
    last = {
        path: getattr(entry.last_commit, "oid", None)
        for path, entry in entries(api, repo, paths, revision, expand=True).items()
    }
    commits = {oid for oid in last.values() if oid is not None}
    if commits - known.keys():
        known.update(islice(_commits(api, repo, revision), FAR))
    for oid in commits - known.keys():
        known.update(islice(_commits(api, repo, oid), 1))
    return {path: known.get(oid) if oid else None for path, oid in last.items()}


def recent(api: Any, repo: str, revision: str) -> set[str]:
    """The newest commits up to `revision`, as many as come in one answer."""
    return {commit for commit, _ in islice(_commits(api, repo, revision), RECENT)}


def origins(
    api: Any,
    repo: str,
    paths: Sequence[str],
    revision: str,
    known: dict[str, str | None],
    ask: Callable[[Callable[[], Any]], Any],
) -> dict[str, str | None]:
    """Path -> who first committed what it has at `revision`; see `Exchange.origins`.

    One question a commit, of the newest `FAR`: it is for files that somebody else has
    committed again, which is rare. Each goes through `ask`, which tries again.
    """
    now = ask(lambda: files(api, repo, paths, revision))
    left, firsts = set(now), dict[str, str | None]()
    newest = ask(lambda: list(islice(_commits(api, repo, revision), FAR)))
    for commit, _ in reversed(newest):
        if not left:
            break
        there = ask(partial(files, api, repo, sorted(left), commit))
        if first := [path for path in left if there.get(path) == now[path]]:
            firsts |= ask(partial(authors, api, repo, first, commit, known))
            left.difference_update(first)
    return firsts


def before(
    api: Any, repo: str, path: str, revision: str, known: dict[str, str | None]
) -> str | None:
    """The commit that the last commit of `path`, up to `revision`, builds upon.

    `known` is revision and path -> its last commit, and commit -> the one before, of
    those met so far; it grows.
    """
    place = f"{revision} {path}"
    if place not in known:
        found = _last_commit(api, repo, path, revision)
        known[place] = None if found is None else str(found.oid)
    if (last := known[place]) is None:
        return None
    if last not in known:
        pair = [commit for commit, _ in islice(_commits(api, repo, last), 2)]
        known[last] = pair[1] if len(pair) > 1 else None
    return known[last]


def committed(api: Any, repo: str, path: str, revision: str) -> float | None:
    """When `path` was last committed, in seconds since the epoch."""
    last = _last_commit(api, repo, path, revision)
    return None if last is None else float(last.date.timestamp())


def clock(api: Any, repo: str) -> float | None:
    """The time of an answer, in seconds since the epoch; None where it has none."""
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
    """The name that an account has now: its old address leads to the new one."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        name = api.get_user_overview(account).username
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", None) != 404:
            raise
        return None
    return str(name) if name else None


def ancestor(api: Any, repo: str, one: str, other: str) -> str | None:
    """The newest commit that two revisions have in common; None: there is none."""
    seen: tuple[set[str], set[str]] = (set(), set())
    histories = (_commits(api, repo, revision) for revision in (one, other))
    for pair in zip_longest(*histories):
        for own, theirs, commit in zip(seen, reversed(seen), pair, strict=True):
            if commit is not None:
                own.add(commit[0])
                if commit[0] in theirs:
                    return commit[0]
    return None


def changed(api: Any, repo: str, old: str | None, new: str) -> frozenset[str]:
    """Paths that differ between two revisions, hidden ones too; None is empty."""
    before, after = ({} if at is None else _hashes(api, repo, at) for at in (old, new))
    return frozenset(
        path for path in {*before, *after} if before.get(path) != after.get(path)
    )


def pulls(api: Any, repo: str, status: str | None) -> list[Any]:
    """The library's pull requests with this status, or all."""
    return list(
        api.get_repo_discussions(
            repo, discussion_type="pull_request", discussion_status=status
        )
    )


def _commits(api: Any, repo: str, revision: str) -> Iterator[tuple[str, str | None]]:
    """Commits and their first authors, newest first, page by page.

    The library's `list_repo_commits` reads the whole history before it returns.
    """
    from huggingface_hub.utils import paginate

    url = f"{api.endpoint}/api/models/{repo}/commits/{quote(revision, safe='')}"
    for item in paginate(url, params={}, headers=headers(api)):
        check_time()
        people = item.get("authors") or [{}]
        yield item["id"], people[0].get("user")


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
    """What the library's `RepoFile` says; an LFS file's blob is that of its pointer."""
    if entry.lfs is not None:
        return File(int(entry.size), str(entry.lfs.sha256))
    return File(int(entry.size), None, str(entry.blob_id))


def _is_file(entry: Any) -> bool:
    return hasattr(entry, "blob_id")
