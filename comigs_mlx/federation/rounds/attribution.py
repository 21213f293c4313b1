"""Finds the account that a contribution counts for, also if another one committed it.

A contribution counts for the account that committed it. One that came as a pull request
is committed by the account that accepts it, together with the file
contributions/<round>/accepted.json, which names the author's account. It is believed
only if the manifest's owner wrote it: the account that founded the federation, and so
decides which participants may contribute.
Each entry of that file holds for one contribution.json, by its SHA-256, and so for its
tensors.

History can be rewritten. If it is squashed to free storage, all files are of one
commit, by the account that squashed it. If that is the founder, a contribution counts
for the account that contribution.json states. A contribution that another account has
committed again, byte for byte, counts for the account that it states if that one
committed it first. An account may also have changed its name since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Exchange,
    Moved,
    NotThere,
    Snapshot,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.formats import schema
from comigs_mlx.federation.formats.contribution import (
    CONTRIBUTION,
    METADATA_BYTES,
    Contribution,
)
from comigs_mlx.federation.formats.manifest import (
    ACCOUNT,
    MANIFEST,
    MANIFEST_BYTES,
    MOST_PARTICIPANTS,
    Manifest,
    name_check,
)
from comigs_mlx.federation.formats.schema import between, each, item, matching
from comigs_mlx.federation.rounds import checks
from comigs_mlx.federation.rounds.checks import Refused, same_account

FOLDER, ACCEPTED = "contributions", "accepted.json"
PATH = re.compile(rf"{FOLDER}/([1-9]\d{{0,8}})/([^/]+)/(.+)")
"""Matches round, participant and file of a contribution."""

ACCEPTED_BYTES = 4 * 2**20
MOST_CHANGES = 100
"""The most changes of federation.json that are searched for the first one."""


@dataclass(frozen=True)
class Voucher:
    """One accepted pull request.

    Attributes:
        account: The account that opened it, for which the contribution counts.
        proposal: The number of the pull request.
        sha256: The digest of its contribution.json.
    """

    account: str = item(matching(ACCOUNT, "an account of the Hub"))
    proposal: int = item(between(1, 10**9))
    sha256: str = item(matching(r"[0-9a-f]{64}", "a SHA-256"))


@dataclass(frozen=True)
class Accepted:
    """The content of accepted.json; `vouchers` is by participant."""

    vouchers: Mapping[str, Voucher] = item(each(name_check, MOST_PARTICIPANTS), {})

    def to_json(self) -> bytes:
        """Write the content of the file."""
        return schema.write(self, ACCEPTED, ACCEPTED_BYTES)


def vouchers_path(round: int | str) -> str:
    """Return the path of the file with the vouchers of a round."""
    return f"{FOLDER}/{round}/{ACCEPTED}"


def manifest_owner(exchange: Exchange, snapshot: Snapshot) -> str | None:
    """Return the account that founded the federation; only its vouchers are believed.

    The account that last wrote federation.json is not taken, because every account with
    the right to write could become it. The history shows the founder; where it is
    squashed, federation.json states it, and the runs that take part remember it. The
    result is None where no founder is known or the two disagree.
    """
    stated = _stated_founder(exchange, snapshot)
    first, is_shown = founder(exchange, snapshot)
    if stated is None or same_account(stated, first):
        return first
    if not is_shown:
        return stated
    return first if same_account(exchange.known_as(stated), first) else None


def founder(exchange: Exchange, snapshot: Snapshot) -> tuple[str | None, bool]:
    """Return the account that first committed federation.json, and whether history
    shows it.

    The search goes from one change of that file to the one before, so that it costs no
    more in a long history.
    """
    revision, author = snapshot.revision, None
    for _ in range(MOST_CHANGES):
        author = exchange.authors([MANIFEST], revision).get(MANIFEST)
        earlier = exchange.before(MANIFEST, revision)
        if earlier is None:
            return author, False
        if MANIFEST not in earlier.files:
            # Put back after it was deleted, it was founded before that.
            return author, not any(PATH.fullmatch(path) for path in earlier.files)
        revision = earlier.revision
    return author, False


def stranger(exchange: Exchange, snapshot: Snapshot) -> str | None:
    """Return the account that last changed federation.json, unless it is the
    founder.
    """
    author = exchange.authors([MANIFEST], snapshot.revision).get(MANIFEST)
    owner = manifest_owner(exchange, snapshot)
    if author is None or same_account(author, owner):
        return None
    # In a squashed history, every file is of the account that squashed it.
    return author if exchange.before(MANIFEST, snapshot.revision) else None


def _stated_founder(exchange: Exchange, snapshot: Snapshot) -> str | None:
    """Return the founder that federation.json states."""
    content = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    return Manifest.from_json(content).founder


def read_vouchers(exchange: Exchange, snapshot: Snapshot, round: int | str) -> Accepted:
    """Read the vouchers of a round, whoever wrote them; none if they are unreadable."""
    if vouchers_path(round) not in snapshot.files:
        return Accepted()
    try:
        content = exchange.read(vouchers_path(round), snapshot.revision, ACCEPTED_BYTES)
    except (NotThere, TooLarge):
        return Accepted()
    try:
        return schema.read(Accepted, content, ACCEPTED, ACCEPTED_BYTES)
    except FederationError:
        return Accepted()


def trusted_vouchers(exchange: Exchange, snapshot: Snapshot, round: int) -> Accepted:
    """Read the vouchers of a round if the manifest's owner wrote them."""
    path = vouchers_path(round)
    if path not in snapshot.files:
        return Accepted()
    author = exchange.authors([path], snapshot.revision).get(path)
    is_owner = author is not None and author == manifest_owner(exchange, snapshot)
    return read_vouchers(exchange, snapshot, round) if is_owner else Accepted()


def accounts(
    exchange: Exchange, snapshot: Snapshot, paths: Iterable[str]
) -> dict[str, str | None]:
    """Return the account that each file of a contribution counts for.

    Args:
        exchange: The repository to read from.
        snapshot: The state of the repository to read.
        paths: The files of contributions to attribute; other files of the state are
            left out.
    """
    requested = list(paths)
    rounds = {match[1] for path in requested if (match := PATH.fullmatch(path))}
    records = [p for p in map(vouchers_path, sorted(rounds)) if p in snapshot.files]
    authors = (
        exchange.authors([*requested, *records], snapshot.revision) if requested else {}
    )
    stated = _stated_accounts(exchange, snapshot, authors, requested)
    owner = manifest_owner(exchange, snapshot) if records or stated else None
    believed = _believed_statements(exchange, snapshot, authors, stated, owner)
    for round in rounds:
        if owner is not None and authors.get(vouchers_path(round)) == owner:
            vouched = _vouched_accounts(exchange, snapshot, round, requested)
            believed |= {p: a for p, a in vouched.items() if authors.get(p) == owner}
    return {
        path: believed.get(path, authors[path]) for path in requested if path in authors
    }


def _stated_accounts(
    exchange: Exchange,
    snapshot: Snapshot,
    authors: Mapping[str, str | None],
    paths: Iterable[str],
) -> dict[str, str]:
    """Return, by path, the account a contribution states if another one committed
    it.
    """
    stated: dict[str, str] = {}
    for path in paths:
        match = PATH.fullmatch(path)
        if match is None or authors.get(path) is None:
            continue
        folder = f"{FOLDER}/{match[1]}/{match[2]}/"
        account = _account_stated_in(exchange, snapshot, folder + CONTRIBUTION)
        if account is not None and not same_account(account, authors[path]):
            stated[path] = account
    return stated


def _believed_statements(
    exchange: Exchange,
    snapshot: Snapshot,
    authors: Mapping[str, str | None],
    stated: Mapping[str, str],
    owner: str | None,
) -> dict[str, str | None]:
    """Return the believed entries of `stated`; `owner` is the manifest's owner."""
    by_others = [path for path in stated if authors[path] != owner]
    first_authors = exchange.origins(by_others, snapshot.revision) if by_others else {}
    return {
        path: account
        for path, account in stated.items()
        if authors[path] == owner or same_account(first_authors.get(path), account)
    }


def _account_stated_in(exchange: Exchange, snapshot: Snapshot, path: str) -> str | None:
    """Return the account that a contribution.json states."""
    file = snapshot.files.get(path)
    if file is None or file.size > METADATA_BYTES:
        return None
    try:
        content = exchange.read(path, snapshot.revision, METADATA_BYTES)
        return Contribution.from_json(content).account
    except (NotThere, TooLarge):
        return None
    except (Moved, Unreachable):
        raise
    except FederationError:
        return None


def owner_of(
    exchange: Exchange, snapshot: Snapshot, path: str, account: str | None
) -> str | None:
    """Return the account that may keep a contribution's name, or None if it is not
    known.

    If another account than the founder squashed the history, every file is of that
    account: it must not take the names of participants who state another one.

    Args:
        exchange: The repository to read from.
        snapshot: The state of the repository to read.
        path: The path of the contribution's contribution.json.
        account: The account that the contribution counts for, from `accounts`.
    """
    if account is None:
        return None
    stated = _account_stated_in(exchange, snapshot, path)
    return account if stated is None or same_account(stated, account) else None


def check_author(
    exchange: Exchange,
    name: str,
    account: str | None,
    manifest: Manifest,
    owners: Mapping[str, str] | None = None,
) -> Refused | None:
    """Judge as `checks.check_author` does, but let an account pass that was renamed."""
    refused = checks.check_author(name, account, manifest, owners)
    owner = checks.owner_of(name, manifest, owners)
    if refused is None or owner is None or account is None:
        return refused
    return None if same_account(exchange.known_as(owner), account) else refused


def _vouched_accounts(
    exchange: Exchange, snapshot: Snapshot, round: str, paths: Iterable[str]
) -> dict[str, str]:
    """Return the account by path, for those of `paths` that a voucher is for."""
    accounts: dict[str, str] = {}
    vouchers = read_vouchers(exchange, snapshot, round).vouchers
    for name, voucher in vouchers.items():
        folder = f"{FOLDER}/{round}/{name}/"
        below = [path for path in paths if path.startswith(folder)]
        if below and _matches(exchange, snapshot, folder, voucher):
            accounts |= dict.fromkeys(below, voucher.account)
    return accounts


def _matches(
    exchange: Exchange, snapshot: Snapshot, folder: str, voucher: Voucher
) -> bool:
    """Tell whether a voucher is for the contribution that is in the folder now."""
    path = folder + CONTRIBUTION
    if path not in snapshot.files or snapshot.files[path].size > METADATA_BYTES:
        return False
    content = exchange.read(path, snapshot.revision, METADATA_BYTES)
    return hashlib.sha256(content).hexdigest() == voucher.sha256
