"""Whose a file is, where somebody else committed it for them.

A contribution counts for the account that committed it. One that came as a proposal is
committed by whoever accepts it, together with contributions/<round>/accepted.json that
says for whom. That is believed only of the account that founded the federation: it
decides who may contribute anyway. A voucher holds for one contribution.json, by its
SHA-256, and so for its tensors.

History can be rewritten: squashed to free storage, all files are of one commit, by
whoever squashed it. Where that is the founder, a contribution counts for the account
that contribution.json states. One that somebody else has committed again, byte
for byte, counts for the account that it states if that one committed it first. An
account may also have another name by now.
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
"""Round, participant and file of a contribution."""

ACCEPTED_BYTES = 4 * 2**20
MOST_CHANGES = 100
"""Of federation.json, looked through for the first."""


@dataclass(frozen=True)
class Voucher:
    """One accepted proposal.

    Attributes:
        account: Who proposed it.
        proposal: Its number.
        sha256: Of contribution.json.
    """

    account: str = item(matching(ACCOUNT, "an account of the Hub"))
    proposal: int = item(between(1, 10**9))
    sha256: str = item(matching(r"[0-9a-f]{64}", "a SHA-256"))


@dataclass(frozen=True)
class Accepted:
    """The content of accepted.json; `vouchers` is by participant."""

    vouchers: Mapping[str, Voucher] = item(each(name_check, MOST_PARTICIPANTS), {})

    def to_json(self) -> bytes:
        """The content of the file."""
        return schema.write(self, ACCEPTED, ACCEPTED_BYTES)


def place(round: int | str) -> str:
    """Where the vouchers of a round are."""
    return f"{FOLDER}/{round}/{ACCEPTED}"


def keeper(exchange: Exchange, snapshot: Snapshot) -> str | None:
    """The account whose vouchers are believed: it founded the federation.

    Not who last wrote federation.json: whoever may write at all could become it. The
    history shows who founded it; where that is squashed, federation.json says it, and
    the runs that take part remember. None where nobody is known or the two disagree.
    """
    stated = _founder(exchange, snapshot)
    first, shown = founder(exchange, snapshot)
    if stated is None or same_account(stated, first):
        return first
    if not shown:
        return stated
    return first if same_account(exchange.known_as(stated), first) else None


def founder(exchange: Exchange, snapshot: Snapshot) -> tuple[str | None, bool]:
    """Who first committed federation.json, and whether the history really shows that.

    Goes from one change of that file to the one before, so that it costs no more in a
    long history.
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
    """Who last changed federation.json, where that is not who founded it."""
    author = exchange.authors([MANIFEST], snapshot.revision).get(MANIFEST)
    owner = keeper(exchange, snapshot)
    if author is None or same_account(author, owner):
        return None
    # Where the history was squashed, everything is of who squashed it.
    return author if exchange.before(MANIFEST, snapshot.revision) else None


def _founder(exchange: Exchange, snapshot: Snapshot) -> str | None:
    """The founder that federation.json states."""
    content = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    return Manifest.from_json(content).founder


def read(exchange: Exchange, snapshot: Snapshot, round: int | str) -> Accepted:
    """The vouchers of a round, whoever wrote them; none where they cannot be read."""
    if place(round) not in snapshot.files:
        return Accepted()
    try:
        content = exchange.read(place(round), snapshot.revision, ACCEPTED_BYTES)
    except (NotThere, TooLarge):
        return Accepted()
    try:
        return schema.read(Accepted, content, ACCEPTED, ACCEPTED_BYTES)
    except FederationError:
        return Accepted()


def trusted(exchange: Exchange, snapshot: Snapshot, round: int) -> Accepted:
    """The vouchers of a round that are believed."""
    path = place(round)
    if path not in snapshot.files:
        return Accepted()
    author = exchange.authors([path], snapshot.revision).get(path)
    known = author is not None and author == keeper(exchange, snapshot)
    return read(exchange, snapshot, round) if known else Accepted()


def accounts(
    exchange: Exchange, snapshot: Snapshot, paths: Iterable[str]
) -> dict[str, str | None]:
    """Path -> the account it counts for.

    Args:
        exchange: Where.
        snapshot: Of it.
        paths: Files of contributions.
    """
    wanted = list(paths)
    rounds = {match[1] for path in wanted if (match := PATH.fullmatch(path))}
    records = [place(r) for r in sorted(rounds) if place(r) in snapshot.files]
    found = exchange.authors([*wanted, *records], snapshot.revision) if wanted else {}
    stated = _stated(exchange, snapshot, found, wanted)
    owner = keeper(exchange, snapshot) if records or stated else None
    told = _theirs(exchange, snapshot, found, stated, owner)
    for round in rounds:
        if owner is not None and found.get(place(round)) == owner:
            vouched = _believed(exchange, snapshot, round, wanted)
            told |= {p: a for p, a in vouched.items() if found.get(p) == owner}
    return {path: told.get(path, found[path]) for path in wanted if path in found}


def _stated(
    exchange: Exchange,
    snapshot: Snapshot,
    found: Mapping[str, str | None],
    paths: Iterable[str],
) -> dict[str, str]:
    """Path -> the account its contribution states, where another one committed it."""
    others: dict[str, str] = {}
    for path in paths:
        match = PATH.fullmatch(path)
        if match is None or found.get(path) is None:
            continue
        folder = f"{FOLDER}/{match[1]}/{match[2]}/"
        account = _states(exchange, snapshot, folder + CONTRIBUTION)
        if account is not None and not same_account(account, found[path]):
            others[path] = account
    return others


def _theirs(
    exchange: Exchange,
    snapshot: Snapshot,
    found: Mapping[str, str | None],
    stated: Mapping[str, str],
    owner: str | None,
) -> dict[str, str | None]:
    """Those of `stated` that are believed; `owner` wrote federation.json."""
    again = [path for path in stated if found[path] != owner]
    first = exchange.origins(again, snapshot.revision) if again else {}
    return {
        path: account
        for path, account in stated.items()
        if found[path] == owner or same_account(first.get(path), account)
    }


def _states(exchange: Exchange, snapshot: Snapshot, path: str) -> str | None:
    """The account that a contribution.json says it is of."""
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
    """Who may keep the name that a contribution is under; None: nobody can tell.

    Where the history was squashed by somebody else than the founder, everything is of
    that account: it must not take the names of those who state another one.

    Args:
        exchange: Where.
        snapshot: Of it.
        path: Of contribution.json.
        account: Whom it counts for, from `accounts`.
    """
    if account is None:
        return None
    stated = _states(exchange, snapshot, path)
    return account if stated is None or same_account(stated, account) else None


def check_author(
    exchange: Exchange,
    name: str,
    account: str | None,
    manifest: Manifest,
    owners: Mapping[str, str] | None = None,
) -> Refused | None:
    """As `checks.check_author`; an account that was given another name passes."""
    refused = checks.check_author(name, account, manifest, owners)
    owner = checks.owner_of(name, manifest, owners)
    if refused is None or owner is None or account is None:
        return refused
    return None if same_account(exchange.known_as(owner), account) else refused


def _believed(
    exchange: Exchange, snapshot: Snapshot, round: str, paths: Iterable[str]
) -> dict[str, str]:
    """Path -> account, for those of `paths` that a voucher of the round is for."""
    told: dict[str, str] = {}
    vouchers = read(exchange, snapshot, round).vouchers
    for name, voucher in vouchers.items():
        folder = f"{FOLDER}/{round}/{name}/"
        mine = [path for path in paths if path.startswith(folder)]
        if mine and _holds(exchange, snapshot, folder, voucher):
            told |= dict.fromkeys(mine, voucher.account)
    return told


def _holds(
    exchange: Exchange, snapshot: Snapshot, folder: str, voucher: Voucher
) -> bool:
    path = folder + CONTRIBUTION
    if path not in snapshot.files or snapshot.files[path].size > METADATA_BYTES:
        return False
    content = exchange.read(path, snapshot.revision, METADATA_BYTES)
    return hashlib.sha256(content).hexdigest() == voucher.sha256
