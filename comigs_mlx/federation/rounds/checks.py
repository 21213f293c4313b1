"""The checks that files from another account must pass before they count.

`check_sizes` and `check_author` run before a download and `check_contribution` after
it; then `clipping.limit` compares all that passed. Whatever the files hold, the answer
is a value and not an exception, and memory stays within a small multiple of the
manifest's `max_bytes`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
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

LARGEST = 1e18
"""The largest number in a contribution: the product of two is finite in float32."""


@dataclass(frozen=True)
class Refused:
    """A refusal of files, with its reason in a few words fit for round.json."""

    reason: str


@dataclass(frozen=True, eq=False)
class Expected:
    """The facts that a contribution to one round must agree with.

    Attributes:
        manifest: The manifest of the federation.
        round: The number of the round that is open.
        current: The generalists that every contribution starts from.
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
        """The shape of each of the current generalists' tensors."""
        return shapes(self.current)

    @cached_property
    def files(self) -> frozenset[str]:
        """Every file of a contribution, relative to its participant's folder."""
        return frozenset({CONTRIBUTION, *by_file(self.shapes)})


def check_sizes(sizes: Mapping[str, int], expected: Expected) -> Refused | None:
    """Judge a contribution by its listing alone, before anything is downloaded.

    Args:
        sizes: Maps a file, relative to the participant's folder, to its size in bytes.
        expected: The facts that the contribution must agree with.
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
        participant: The participant's name, which is that of the contribution's folder.
        account: The account that committed it; None where it is not known (a folder).
        manifest: The manifest of the federation.
        owners: Maps a participant to the account that uses the name already, where
            anyone may take part.
    """
    listed = manifest.participants
    if listed is not None and participant not in listed:
        return Refused("not among the participants of this federation")
    owner = owner_of(participant, manifest, owners)
    if owner is None or same_account(account, owner):
        return None
    return Refused(f"committed by {shown(account)}, the name belongs to {owner}")


def same_account(left: str | None, right: str | None) -> bool:
    """Tell whether two names are of one account; the Hub ignores their case."""
    return (left or "").casefold() == (right or "").casefold()


def owner_of(
    participant: str, manifest: Manifest, owners: Mapping[str, str] | None = None
) -> str | None:
    """Return the account that a name belongs to; None if any account may use it."""
    if manifest.participants is None:
        return (owners or {}).get(participant)
    member = manifest.participants.get(participant)
    return None if member is None else member.account


def check_contribution(
    files: Mapping[str, bytes], participant: str, expected: Expected
) -> Stored | Refused:
    """Judge a downloaded contribution by everything that it shows by itself.

    Args:
        files: Maps a file, relative to the participant's folder, to its content.
        participant: The participant's name, which is that of the folder.
        expected: The facts that the contribution must agree with.

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
        metadata = _metadata(files, participant, *parts)
        return _tensors(metadata, files, expected)
    except FederationError as error:
        return _refused(error)


def _metadata(
    files: Mapping[str, bytes],
    participant: str,
    round: int,
    manifest: Manifest,
    start: str | None = None,
) -> Contribution:
    """Read the metadata among `files`, and check that manifest and files agree with it.

    Args:
        files: Maps a file, relative to the participant's folder, to its content.
        participant: The participant's name, which is that of the folder.
        round: The number of the round that is open.
        manifest: The manifest of the federation.
        start: The digest of the generalists that every contribution starts from.

    Raises:
        FederationError: If they do not agree; the text is a few words.
    """
    metadata = Contribution.from_json(files[CONTRIBUTION])
    _agree(metadata, participant, round, manifest)
    _bound(metadata, manifest, start)
    _digests(metadata, files)
    _signature(metadata, manifest)
    return metadata


def _agree(
    metadata: Contribution, participant: str, round: int, manifest: Manifest
) -> None:
    agreed = {
        "participant": participant,
        "round": round,
        "base_fingerprint": manifest.base_model.fingerprint,
        "encoding": manifest.encoding,
    }
    for name, value in agreed.items():
        _compare(name, getattr(metadata, name), value)
    any_rank = aggregate.load(manifest.aggregator.name).HANDLES_RANKS
    # An int8 update is relative to the current generalist, so it has its rank.
    free = {"rank"} if any_rank and metadata.encoding != "int8" else set()
    for name in [field.name for field in dataclasses.fields(metadata.experts)]:
        if name not in free:
            stated = getattr(metadata.experts, name)
            _compare(f"experts.{name}", stated, getattr(manifest.experts, name))
    if strangers := metadata.counters.keys() - set(manifest.counters):
        raise FederationError(f"counter {min(strangers)} is not in the manifest")


def _bound(metadata: Contribution, manifest: Manifest, start: str | None) -> None:
    """Check that it is for this federation, and was trained from its last generalists.

    Metadata by hand or by an earlier version need not say so, but signed metadata must:
    the signature would be valid in every other federation too.
    """
    if metadata.federation not in (None, manifest.id):
        raise FederationError(
            f"it is for another federation ({metadata.federation[:8]}) than this "
            f"({(manifest.id or 'without an id')[:8]})"
        )
    if metadata.start is not None and start is not None and metadata.start != start:
        raise FederationError(
            f"it did not start from the generalist of round {metadata.round - 1}"
        )
    signed = metadata.signature is not None and manifest.id is not None
    if signed and metadata.federation is None:
        raise FederationError(
            "its signature does not say for which federation: update comigs_mlx and "
            "push again"
        )


def _compare(name: str, stated: Any, agreed: Any) -> None:
    if stated != agreed:
        raise FederationError(f"{name} {shown(stated)}, expected {shown(agreed)}")


def _digests(metadata: Contribution, files: Mapping[str, bytes]) -> None:
    tensors = files.keys() - {CONTRIBUTION}
    if metadata.files.keys() != tensors:
        raise FederationError(f"{CONTRIBUTION} does not list the files that are there")
    for name in sorted(tensors):
        entry, content = metadata.files[name], files[name]
        digest = hashlib.sha256(content).hexdigest()
        if (entry.bytes, entry.sha256) != (len(content), digest):
            raise FederationError(f"{name} is not the file that was contributed")


def _signature(metadata: Contribution, manifest: Manifest) -> None:
    """Check the signature; it is required if the manifest has the participant's key."""
    member = (manifest.participants or {}).get(metadata.participant)
    public = None if member is None else member.public_key
    if metadata.signature is None:
        if public is not None or manifest.require_signatures:
            raise FederationError("not signed")
    elif public is not None and not signatures.verify(metadata, public):
        raise FederationError("wrong signature")


def _refused(error: FederationError) -> Refused:
    """Refuse with the first problem, on one short line."""
    return Refused(str(error).partition("\n")[0][:160])


def _tensors(
    metadata: Contribution, files: Mapping[str, bytes], expected: Expected
) -> Stored:
    own = {
        name: _with_rank(name, shape, metadata.experts.rank)
        for name, shape in expected.shapes.items()
    }
    expected_files = encoding.expected(own, metadata.encoding)
    layouts = {
        file: adapter.finite_layout(files[file], expected_files[file])
        for file in expected_files
    }
    contents = {file: files[file] for file in expected_files}
    stored = Stored(metadata, contents, layouts, expected.current)
    for name in stored.names():
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.abs(stored.read(name)).max(initial=0.0)
        if not largest <= LARGEST:
            problem = "is not finite" if not np.isfinite(largest) else "is too large"
            raise FederationError(f"{name} {problem}")
    return stored


def _with_rank(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (shape[0], rank) if name.endswith(".lora_a") else (rank, shape[1])
