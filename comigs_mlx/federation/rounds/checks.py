"""What files from someone else must pass before they count.

Before a download `check_sizes` and `check_author`, after it `check_contribution`; then,
over all that passed, `norms.limit`. Whatever the files hold, the answer is a value, not
an exception, and memory stays within a small multiple of the manifest's `max_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats import adapter, encoding, signatures
from comigs_mlx.federation.formats.contribution import (
    CONTRIBUTION,
    METADATA_BYTES,
    Contribution,
    Stored,
)
from comigs_mlx.federation.formats.manifest import Manifest, Shapes
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.formats.tensor_source import (
    Source,
    by_file,
    digest,
    shapes,
)
from comigs_mlx.federation.rounds import claims

LARGEST = 1e18
"""The largest number in a contribution: the product of two is finite in float32."""


@dataclass(frozen=True)
class Refused:
    """Files that do not count, and why, in a few words fit for round.json."""

    reason: str


@dataclass(frozen=True, eq=False)
class Expected:
    """What a contribution to one round must agree with.

    Attributes:
        manifest: Of the federation.
        round: The open round.
        current: The generalists that everyone starts from.
    """

    manifest: Manifest
    round: int
    current: Source

    @cached_property
    def start(self) -> str:
        """The digest of the current generalists."""
        return digest({name: self.current.read(name) for name in self.current.names()})

    @cached_property
    def shapes(self) -> Shapes:
        """Tensor -> shape of the current generalists."""
        return shapes(self.current)

    @cached_property
    def files(self) -> frozenset[str]:
        """Every file of a contribution, relative to its participant's folder."""
        return frozenset({CONTRIBUTION, *by_file(self.shapes)})


def check_sizes(sizes: Mapping[str, int], expected: Expected) -> Refused | None:
    """Judge a contribution by its listing alone, before anything is downloaded.

    Args:
        sizes: File, relative to the participant's folder -> bytes.
        expected: What it must agree with.
    """
    strangers = sorted(sizes.keys() - expected.files)
    missing = sorted(expected.files - sizes.keys())
    if strangers:
        return Refused(f"unknown file {shown(strangers[0])}")
    if missing:
        return Refused(f"{missing[0]} is missing")
    if sizes[CONTRIBUTION] > METADATA_BYTES:
        return Refused(f"{CONTRIBUTION} is larger than {METADATA_BYTES} bytes")
    total = sum(sizes.values()) - sizes[CONTRIBUTION]
    if total > (most := expected.manifest.max_bytes) or min(sizes.values()) < 0:
        return Refused(f"{total} bytes of tensors, at most {most}")
    return None


def check_author(
    participant: str,
    account: str | None,
    manifest: Manifest,
    owners: Mapping[str, str] | None = None,
) -> Refused | None:
    """Judge whether `account` may contribute under a participant's name.

    Args:
        participant: The name of the contribution's folder.
        account: Who committed it; None where nobody is known (a folder).
        manifest: Of the federation.
        owners: Participant -> account that already uses the name, where anyone may
            take part.
    """
    listed = manifest.participants
    if listed is not None and participant not in listed:
        return Refused("not among the participants of this federation")
    owner = owner_of(participant, manifest, owners)
    if owner is None or same_account(account, owner):
        return None
    return Refused(f"committed by {shown(account)}, the name belongs to {owner}")


def same_account(one: str | None, other: str | None) -> bool:
    """Whether two names are of one account; the Hub does not mind their case."""
    return (one or "").casefold() == (other or "").casefold()


def owner_of(
    participant: str, manifest: Manifest, owners: Mapping[str, str] | None = None
) -> str | None:
    """The account that a name belongs to; None where it is anybody's."""
    if manifest.participants is None:
        return (owners or {}).get(participant)
    member = manifest.participants.get(participant)
    return None if member is None else member.account


def check_contribution(
    files: Mapping[str, bytes], participant: str, expected: Expected
) -> Stored | Refused:
    """Judge a downloaded contribution by everything that can be checked of it alone.

    Args:
        files: File, relative to the participant's folder -> content.
        participant: The name of that folder.
        expected: What it must agree with.

    Raises:
        FederationError: Only if a signature must be checked and `cryptography` is not
            installed.
    """
    sizes = {name: len(content) for name, content in files.items()}
    if refused := check_sizes(sizes, expected):
        return refused
    if any(m.public_key for m in (expected.manifest.participants or {}).values()):
        signatures.require()
    try:
        parts = expected.round, expected.manifest, expected.start
        metadata = claims.check(files, participant, *parts)
        return _tensors(metadata, files, expected)
    except FederationError as error:
        return _refused(error)


def _refused(error: FederationError) -> Refused:
    """The first problem, on one short line."""
    return Refused(str(error).partition("\n")[0][:160])


def _tensors(
    metadata: Contribution, files: Mapping[str, bytes], expected: Expected
) -> Stored:
    own = {
        name: _with_rank(name, shape, metadata.experts.rank)
        for name, shape in expected.shapes.items()
    }
    wanted = encoding.expected(own, metadata.encoding)
    layouts = {
        file: adapter.finite_layout(files[file], wanted[file]) for file in wanted
    }
    contents = {file: files[file] for file in wanted}
    stored = Stored(metadata, contents, layouts, expected.current)
    for name in stored.names():
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.abs(stored.read(name)).max(initial=0.0)
        if not largest <= LARGEST:
            what = "is not finite" if not np.isfinite(largest) else "is too large"
            raise FederationError(f"{name} {what}")
    return stored


def _with_rank(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (shape[0], rank) if name.endswith(".lora_a") else (rank, shape[1])
