"""What a run remembers of its federation, against what the repository says now.

Whoever may write can put back an older state, found the federation anew under the same
address, change what the participants agreed on, or replace a round that is closed. Each
is one comparison with RUN/federation.json. What differs is told and not used, until
somebody accepts it with `--trust`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.participant.membership import Membership
from comigs_mlx.federation.rounds.verification import ACCEPT, Untrusted

MOST_TOLD = 6
"""Differences named in one line."""


class Changed(Untrusted):
    """The federation is not what a run takes part in."""


def check(record: Membership, uri: str, manifest: Manifest, round: Round) -> None:
    """Raise `Changed` unless a federation still is what a run takes part in.

    Args:
        record: The record of the run.
        uri: The address of the federation, for the text of the error.
        manifest: The manifest that the repository has now.
        round: The last closed round that the repository has now.
    """
    if is_anew(record, manifest):
        raise Changed(
            f"{uri} was founded anew: it is another federation (id {manifest.id}) than "
            f"this run takes part in; {ACCEPT}"
        )
    known = record.manifest
    if known is not None and (told := list(differences(known, manifest))):
        more = len(told) - MOST_TOLD
        told = [*told[:MOST_TOLD], *([f"{more} more"] if more > 0 else [])]
        raise Changed(
            f"federation.json of {uri} has changed since this run accepted it: "
            f"{'; '.join(told)}; {ACCEPT}"
        )
    if round.round < record.round:
        raise Changed(
            f"{uri} went back to an older state: round {round.round}, and this run "
            f"has round {record.round}; {ACCEPT}"
        )
    if is_replaced(record, round):
        raise Changed(
            f"round {round.round} of {uri} is another one than this run has: it was "
            f"closed twice or replaced; {ACCEPT}"
        )


def is_anew(record: Membership, manifest: Manifest) -> bool:
    """Whether this is another federation at the same address."""
    known = None if record.manifest is None else record.manifest.id
    return known is not None and manifest.id is not None and known != manifest.id


def is_replaced(record: Membership, round: Round) -> bool:
    """Whether the round that a run has is another one now, as far as digests tell."""
    known = record.round == round.round and record.generalist is not None
    return known and round.generalist not in (None, record.generalist)


def differences(old: Manifest, new: Manifest) -> Iterator[str]:
    """`field: old -> new`, for each field that two manifests differ in."""
    yield from _differences("", dataclasses.asdict(old), dataclasses.asdict(new))


def _differences(
    where: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        place = f"{where}.{name}" if where else name
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(place, before, after)
        elif name not in old or name not in new:
            yield f"{place} {'added' if name in new else 'removed'}"
        else:
            yield f"{place} {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    """A value for a line; of who may contribute the names only."""
    if isinstance(value, Mapping):
        return ", ".join(sorted(value)[:5]) + (" ..." if len(value) > 5 else "")
    return "none" if value is None else shown(value)
