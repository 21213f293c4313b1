"""Proposals that are fit come into the repository; they are never merged.

A merge takes whatever the proposal holds at that moment: its author can change it after
the last look, and the Hub offers no way to name the state that was looked at. Instead
the files that were read and passed every check are committed by whoever accepts them,
on exactly the state they were checked against, so that nothing unseen can come along.
`vouching` says for whom they count; the proposal is then closed. Killed in between, the
next `accept` finds the files and closes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

from comigs_mlx.federation.exchanges.base import (
    Changes,
    Exchange,
    Moved,
    NotAllowed,
    NotThere,
    Proposal,
    Say,
    Unreachable,
)
from comigs_mlx.federation.exchanges.retry import tries
from comigs_mlx.federation.formats.contribution import CONTRIBUTION
from comigs_mlx.federation.rounds import attribution, proposing
from comigs_mlx.federation.rounds.attribution import FOLDER, Accepted, Voucher
from comigs_mlx.federation.rounds.checks import Expected
from comigs_mlx.federation.rounds.proposing import Verdict
from comigs_mlx.federation.rounds.repository import Federation, answered, current
from comigs_mlx.federation.rounds.verification import Trust

THANKS = "Checked, and committed to the repository as it was when it was checked."


def accept(exchange: Exchange, say: Say, trust: Trust | None = None) -> list[Verdict]:
    """Commit what is fit of the open proposals, oldest first, and close those.

    Args:
        exchange: Where, as the account that founded the federation.
        say: Told where a proposal could not be closed.
        trust: What of the federation is taken without a look.

    Returns:
        One for each proposal, without the files. Refused ones stay open.

    Raises:
        Unreachable: If the repository cannot be had; what was accepted stays so.
        NotAllowed: If this account may not write.
    """
    made = []
    expected: Expected | None = None
    for proposal in exchange.proposals():
        verdict, expected = _settled(exchange, proposal, expected, trust)
        if verdict.reason is None:
            _dismiss(exchange, proposal, say)
        made.append(dataclasses.replace(verdict, files={}))
    return made


def _settled(
    exchange: Exchange,
    proposal: Proposal,
    expected: Expected | None,
    trust: Trust | None,
) -> tuple[Verdict, Expected | None]:
    """The verdict, carried out; `expected` is kept for the next proposal."""
    for _ in tries():
        federation = current(exchange, trust)
        keeper = attribution.keeper(exchange, federation.snapshot)
        account = exchange.account()
        if account is None or account.casefold() != (keeper or "").casefold():
            reason = f"waits for {keeper or 'the owner'}, who founded the federation"
            return Verdict(proposal, None, reason), expected
        if expected is None or not _is_of(expected, federation):
            expected = proposing.expectation(exchange, federation)
        verdict = proposing.judge(exchange, federation, expected, proposal)
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
    """The contribution's files and the voucher; the name's older files go."""
    name, round = verdict.participant or "", federation.open_round
    snapshot, folder = federation.snapshot, f"{FOLDER}/{round}/{name}/"
    files = {folder + file: content for file, content in verdict.files.items()}
    stale = [p for p in snapshot.files if p.startswith(folder) and p not in files]
    digest = hashlib.sha256(verdict.files[CONTRIBUTION]).hexdigest()
    mine = Voucher(verdict.proposal.author or "", verdict.proposal.number, digest)
    vouchers = {**attribution.trusted(exchange, snapshot, round).vouchers, name: mine}
    record = {attribution.place(round): Accepted(vouchers).to_json()}
    return {**dict.fromkeys(stale), **files, **record}


def _dismiss(exchange: Exchange, proposal: Proposal, say: Say) -> None:
    try:
        exchange.dismiss(proposal.number, THANKS)
    except NotThere:  # somebody else has closed it
        return
    except (NotAllowed, Unreachable) as error:
        say(f"proposal {proposal.number} is accepted, but still open: {error}")
