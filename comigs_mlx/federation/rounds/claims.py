"""What contribution.json claims, against the manifest and the files beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats import signatures
from comigs_mlx.federation.formats.contribution import CONTRIBUTION, Contribution
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.strict_json import shown


def check(
    files: Mapping[str, bytes],
    participant: str,
    round: int,
    manifest: Manifest,
    start: str | None = None,
) -> Contribution:
    """The metadata among `files`, if everything it says is so.

    Args:
        files: All files of the contribution, by name.
        participant: The name of the folder they are in.
        round: The open round.
        manifest: Of the federation.
        start: Digest of the generalists that everyone starts from.

    Raises:
        FederationError: In a few words, if not.
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
    wanted = {
        "participant": participant,
        "round": round,
        "base_fingerprint": manifest.base_model.fingerprint,
        "encoding": manifest.encoding,
    }
    for name, value in wanted.items():
        _compare(name, getattr(metadata, name), value)
    any_rank = aggregate.load(manifest.aggregator.name).HANDLES_RANKS
    # An int8 update is relative to the current generalist, so it has its rank.
    free = {"rank"} if any_rank and metadata.encoding != "int8" else set()
    for name in [field.name for field in dataclasses.fields(metadata.experts)]:
        if name not in free:
            found = getattr(metadata.experts, name)
            _compare(f"experts.{name}", found, getattr(manifest.experts, name))
    if strangers := metadata.counters.keys() - set(manifest.counters):
        raise FederationError(f"counter {min(strangers)} is not in the manifest")


def _bound(metadata: Contribution, manifest: Manifest, start: str | None) -> None:
    """It is for this federation and was trained from its last generalists.

    Written by hand or by an earlier version it need not say so, but what is signed
    must: a signature would be as good in every other federation.
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


def _compare(name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise FederationError(f"{name} {shown(found)}, expected {shown(wanted)}")


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
    """A participant's key, where the manifest has it, makes signing a duty."""
    member = (manifest.participants or {}).get(metadata.participant)
    public = None if member is None else member.public_key
    if metadata.signature is None:
        if public is not None or manifest.require_signatures:
            raise FederationError("not signed")
    elif public is not None and not signatures.verify(metadata, public):
        raise FederationError("wrong signature")
