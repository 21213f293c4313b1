"""Accepts contributions that come as pull requests, from accounts that may not write.

A pull request may add, replace or delete files of one contribution to the open round
and nothing else. Name, accounts and files must pass what any contribution must.

A pull request that is fit is never merged: a merge takes whatever it holds at that
moment. Its author can change it after the last look, and the Hub offers no way to name
the state that was looked at. Instead the owner commits the files that were read and
passed every check, on exactly the state they were checked against, so that nothing
unseen can come along. `attribution` finds the account that they count for. Then the
pull request is closed. If the owner's process is killed in between, the next `accept`
finds the files and closes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Changes,
    Exchange,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Say,
    Snapshot,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.exchanges.paths import is_allowed
from comigs_mlx.federation.exchanges.retry import tries
from comigs_mlx.federation.formats.contribution import CONTRIBUTION, METADATA_BYTES
from comigs_mlx.federation.formats.manifest import PARTICIPANT
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.rounds import attribution, checks, reviewing, submit
from comigs_mlx.federation.rounds.attribution import FOLDER, PATH, Accepted, Voucher
from comigs_mlx.federation.rounds.checks import Expected, Refused
from comigs_mlx.federation.rounds.repository import (
    Federation,
    answered,
    current,
    pull,
)
from comigs_mlx.federation.rounds.verification import Trust

THANKS = "Checked, and committed to the repository as it was when it was checked."


@dataclass(frozen=True)
class Verdict:
    """The decision on one proposal.

    Attributes:
        proposal: The pull request that is judged.
        participant: The participant whose contribution it holds; None where that is not
            clear.
        reason: The reason why it is refused; None where it is accepted.
        files: Maps a file, relative to the participant's folder, to the content that is
            accepted.
        done: Whether the repository has its files already, so that it only has to be
            closed.
    """

    proposal: Proposal
    participant: str | None = None
    reason: str | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    done: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return plain values, for users and programs."""
        return {
            "number": self.proposal.number,
            "author": self.proposal.author,
            "participant": self.participant,
            "accepted": self.reason is None,
            "reason": self.reason,
            "url": self.proposal.url,
        }


def verdicts(exchange: Exchange, federation: Federation) -> Iterator[Verdict]:
    """Yield what would become of each open proposal now; nothing is changed."""
    proposals = exchange.proposals()
    expected = expectation(exchange, federation) if proposals else None
    for proposal in proposals:
        assert expected is not None
        yield judge(exchange, federation, expected, proposal)


def judge(
    exchange: Exchange, federation: Federation, expected: Expected, proposal: Proposal
) -> Verdict:
    """Judge one proposal by everything a contribution must pass, and its own limits.

    Args:
        exchange: The repository that the federation is in.
        federation: The state of the federation to act on, from `repository.current`.
        expected: The facts that a contribution to the open round must agree with.
        proposal: The open pull request to judge.
    """
    name = None
    try:
        snapshot, changed = exchange.proposed(proposal.number)
        round, name = place(changed)
        if _is_there(exchange, federation.snapshot, snapshot, changed):
            return Verdict(proposal, name, done=True)
        _check_round(round, federation)
        _check_author(exchange, federation, proposal, snapshot, changed, name)
        files = _files(exchange, snapshot, f"{FOLDER}/{round}/{name}/", expected)
        _raise(checks.check_contribution(files, name, expected))
    except (NotThere, TooLarge, Unfit) as error:
        return Verdict(proposal, name, str(error))
    return Verdict(proposal, name, files=files)


class Unfit(FederationError):
    """The reason why a proposal is refused."""


def _raise(judged: object) -> None:
    if isinstance(judged, Refused):
        raise Unfit(judged.reason)


def expectation(exchange: Exchange, federation: Federation) -> Expected:
    """Return what a contribution to the open round must agree with."""
    source = Arrays("", pull(exchange, federation))
    return Expected(federation.manifest, federation.open_round, source)


def place(changed: frozenset[str]) -> tuple[int, str]:
    """Return round and participant of the one contribution that all changes are in.

    Raises:
        Unfit: If nothing is changed, or the changes are not all in one contribution.
    """
    if not changed:
        raise Unfit("it changes nothing")
    contributions = set()
    for path in sorted(changed):
        match = PATH.fullmatch(path) if is_allowed(path) else None
        if match is None or not re.fullmatch(PARTICIPANT, match[2]):
            raise Unfit(f"it changes {shown(path)}, which is no part of a contribution")
        contributions.add((int(match[1]), match[2]))
    if len(contributions) > 1:
        folders = " and ".join(
            f"{round}/{name}" for round, name in sorted(contributions)[:2]
        )
        raise Unfit(f"it changes more than one contribution: {folders}")
    return contributions.pop()


def _check_round(round: int, federation: Federation) -> None:
    if round != federation.open_round:
        raise Unfit(f"it is for round {round}, round {federation.open_round} is open")


def _is_there(
    exchange: Exchange, now: Snapshot, offered: Snapshot, changed: frozenset[str]
) -> bool:
    """Tell whether the repository has what is offered."""
    for path in changed:
        present, proposed = now.files.get(path), offered.files.get(path)
        if present != proposed:
            return False
        if present is not None and present.sha256 is None:
            if present.size > METADATA_BYTES:
                return False
            contents = {
                exchange.read(path, at.revision, METADATA_BYTES)
                for at in (now, offered)
            }
            if len(contents) > 1:
                return False
    return True


def _check_author(
    exchange: Exchange,
    federation: Federation,
    proposal: Proposal,
    snapshot: Snapshot,
    changed: frozenset[str],
    name: str,
) -> None:
    """Check that name and commits behind the files are the proposal's author's."""
    author = proposal.author
    if author is None:
        raise Unfit("its author is not known")
    holders = submit.holders(exchange, federation, name)
    parts = federation.manifest, holders
    _raise(attribution.check_author(exchange, name, author, *parts))
    paths = sorted(changed & snapshot.files.keys())
    committed = exchange.authors(paths, snapshot.revision) if paths else {}
    for account in committed.values():
        if (account or "").casefold() != author.casefold():
            raise Unfit(f"committed by {shown(account)}, proposed by {author}")


def _files(
    exchange: Exchange, snapshot: Snapshot, folder: str, expected: Expected
) -> dict[str, bytes]:
    """Read the files below `folder`, after a check of their sizes."""
    listed = {p: f for p, f in snapshot.files.items() if p.startswith(folder)}
    sizes = {path.removeprefix(folder): file.size for path, file in listed.items()}
    _raise(checks.check_sizes(sizes, expected))
    most = max(expected.manifest.max_bytes, METADATA_BYTES)
    return {
        path.removeprefix(folder): reviewing.content(exchange, snapshot, path, most)
        for path in listed
    }


def accept(exchange: Exchange, say: Say, trust: Trust | None = None) -> list[Verdict]:
    """Commit the files of the fit proposals, oldest first, and close these.

    Args:
        exchange: The repository, opened by the account that founded the federation.
        say: Receives a sentence on each pull request that could not be closed.
        trust: The trust of the run in the federation; None trusts nothing without
            verification.

    Returns:
        A verdict for each proposal, without the files. Refused proposals stay open.

    Raises:
        Unreachable: If the repository cannot be reached; what was accepted stays so.
        NotAllowed: If this account may not write.
    """
    verdicts = []
    expected: Expected | None = None
    for proposal in exchange.proposals():
        verdict, expected = _settled(exchange, proposal, expected, trust)
        if verdict.reason is None:
            _dismiss(exchange, proposal, say)
        verdicts.append(dataclasses.replace(verdict, files={}))
    return verdicts


def _settled(
    exchange: Exchange,
    proposal: Proposal,
    expected: Expected | None,
    trust: Trust | None,
) -> tuple[Verdict, Expected | None]:
    """Judge and commit a proposal; also return `expected`, for the next proposal."""
    for _ in tries():
        federation = current(exchange, trust)
        owner = attribution.manifest_owner(exchange, federation.snapshot)
        account = exchange.account()
        if account is None or not checks.same_account(account, owner):
            reason = f"waits for {owner or 'the owner'}, who founded the federation"
            return Verdict(proposal, None, reason), expected
        if expected is None or not _is_of(expected, federation):
            expected = expectation(exchange, federation)
        verdict = judge(exchange, federation, expected, proposal)
        if verdict.reason is not None or verdict.done:
            return verdict, expected
        with contextlib.suppress(Moved):
            _commit(exchange, federation, verdict)
            return verdict, expected
    raise Unreachable(f"{exchange.uri} is being written to all the time: try again")


def _is_of(expected: Expected, federation: Federation) -> bool:
    opened = federation.manifest, federation.open_round
    return (expected.manifest, expected.round) == opened


def _commit(exchange: Exchange, federation: Federation, verdict: Verdict) -> None:
    name, round = verdict.participant or "", federation.open_round
    new, revision = (
        _changes(exchange, federation, verdict),
        federation.snapshot.revision,
    )
    message = f"Accept proposal {verdict.proposal.number} for round {round}: {name}"
    with answered(exchange, {p: c for p, c in new.items() if c is not None}):
        exchange.commit(new, message, revision)


def _changes(exchange: Exchange, federation: Federation, verdict: Verdict) -> Changes:
    """Return the contribution's files and the voucher; the name's older files go."""
    name, round = verdict.participant or "", federation.open_round
    snapshot, folder = federation.snapshot, f"{FOLDER}/{round}/{name}/"
    files = {folder + file: content for file, content in verdict.files.items()}
    stale = [p for p in snapshot.files if p.startswith(folder) and p not in files]
    digest = hashlib.sha256(verdict.files[CONTRIBUTION]).hexdigest()
    voucher = Voucher(verdict.proposal.author or "", verdict.proposal.number, digest)
    vouchers = {
        **attribution.trusted_vouchers(exchange, snapshot, round).vouchers,
        name: voucher,
    }
    record = {attribution.vouchers_path(round): Accepted(vouchers).to_json()}
    return {**dict.fromkeys(stale), **files, **record}


def _dismiss(exchange: Exchange, proposal: Proposal, say: Say) -> None:
    try:
        exchange.dismiss(proposal.number, THANKS)
    except NotThere:  # it has been closed already
        return
    except (NotAllowed, Unreachable) as error:
        say(f"proposal {proposal.number} is accepted, but still open: {error}")
