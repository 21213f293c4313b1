"""What one participant gives to one round: contribution.json and adapter files.

    contributions/<round>/<participant>/contribution.json
                                        adapters.safetensors
                                        generalist-1/adapters.safetensors ...

contribution.json (a public format) says what the tensor files are, of whom, for which
round and on which base model, and nothing about the participant's text or device but
the counters that the manifest lists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from comigs_mlx import expert_shape
from comigs_mlx.expert_shape import SharedShape
from comigs_mlx.federation.formats import encoding, schema
from comigs_mlx.federation.formats.manifest import (
    ACCOUNT,
    COUNTERS,
    ID,
    PARTICIPANT,
    Encoding,
    Manifest,
)
from comigs_mlx.federation.formats.schema import between, each, item, matching
from comigs_mlx.federation.formats.strict_json import canonical
from comigs_mlx.federation.formats.tensor_file import Content, Layout, read_tensor
from comigs_mlx.federation.formats.tensor_source import Array, Source, file_of
from comigs_mlx.files import write_bytes

CONTRIBUTION = "contribution.json"
METADATA_BYTES = 64 * 1024


@dataclass(frozen=True)
class FileEntry:
    """One tensor file."""

    sha256: str = item(matching(r"[0-9a-f]{64}", "a SHA-256"))
    bytes: int = item(between(0, 10**12))


@dataclass(frozen=True)
class Privacy:
    """Differential privacy of the participant's updates so far; see `privacy`.

    Attributes:
        epsilon: Spent, over all its rounds in this federation.
        delta: Of the guarantee.
        clip: Longest update.
        noise: Standard deviation of the noise, in units of `clip`.
    """

    epsilon: float = item(between(0, 10**9))
    delta: float = item(between(0, 1))
    clip: float = item(between(0, 10**9))
    noise: float = item(between(0, 10**9))


@dataclass(frozen=True)
class Contribution:
    """The content of contribution.json.

    Attributes:
        participant: Its name.
        round: The open round that it is for.
        base_fingerprint: Of the base model trained on.
        experts: Shape of the generalists in the tensor files.
        encoding: Of the tensors.
        counters: Counter -> number in this round; of tokens an upper bound.
        files: Tensor file, relative to contribution.json -> what it must be.
        signature: See `signatures`; None where it is not signed.
        privacy: None where no noise was added.
        federation: The id of the federation that it is for.
        start: Digest of the generalists that it was trained from.
        account: The account that commits it, as it says itself; believed only where
            the history does not tell any more, see `attribution`.
    """

    NEWER: ClassVar = ("federation", "start", "account")

    participant: str = item(matching(PARTICIPANT, "a participant's name"))
    round: int = item(between(1, 10**9))
    base_fingerprint: str = item(matching(r"[\w:.-]{1,128}", "a fingerprint"))
    experts: SharedShape = item()
    encoding: Encoding = item()
    counters: Mapping[str, int] = item(each(lambda name: None, 10))
    files: Mapping[str, FileEntry] = item(each(lambda name: None, 64))
    signature: str | None = item(matching(r"[0-9a-f]{128}", "a signature"), None)
    privacy: Privacy | None = None
    federation: str | None = item(matching(ID, "the id of a federation"), None)
    start: str | None = item(matching(r"[0-9a-f]{64}", "a SHA-256"), None)
    account: str | None = item(matching(ACCOUNT, "an account of the Hub"), None)

    @classmethod
    def from_json(cls, content: bytes | str) -> Contribution:
        """Read contribution.json.

        Raises:
            FederationError: All that is wrong with it, at once.
        """
        return schema.read(cls, content, CONTRIBUTION, METADATA_BYTES)

    def to_json(self) -> bytes:
        """The content of contribution.json; same content, same bytes.

        Raises:
            FederationError: If a value cannot work.
        """
        return schema.write(self, CONTRIBUTION, METADATA_BYTES)

    def signed_bytes(self) -> bytes:
        """What a signature is of: everything but itself, in canonical form.

        The tensors are in it by the SHA-256 of their files.
        """
        content = schema.to_dict(Contribution.from_json(self.to_json()))  # 16 is 16.0
        del content["signature"]
        return canonical(content)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        for name, number in self.counters.items():
            if name not in COUNTERS:
                yield f"counters: unknown counter {schema.shown(name)}"
            elif not 0 <= number <= COUNTERS[name]:
                yield f"counters: {name} {number} is not plausible"


@dataclass(frozen=True)
class Prepared:
    """A contribution ready to be pushed.

    Attributes:
        metadata: contribution.json.
        tensors: Tensor file -> content.
        residual: For `prepare` in the next round.
    """

    metadata: Contribution
    tensors: dict[str, bytes]
    residual: dict[str, Array]

    def by(self, account: str | None) -> Prepared:
        """The same with the account that commits it, where that is not said yet.

        What is signed stays as it was signed; a federation without an id, of version
        0.1, may have closers that refuse an entry they do not know.
        """
        stated = self.metadata
        known = account is not None and re.fullmatch(ACCOUNT, account)
        said = stated.account is not None or stated.signature is not None
        if not known or said or stated.federation is None:
            return self
        metadata = dataclasses.replace(stated, account=account)
        return dataclasses.replace(self, metadata=metadata)

    def files(self) -> dict[str, bytes]:
        """All files, relative to the participant's folder: what leaves this device."""
        return {CONTRIBUTION: self.metadata.to_json(), **self.tensors}


def prepare(
    values: Mapping[str, npt.NDArray[Any]],
    current: Source,
    manifest: Manifest,
    *,
    participant: str,
    round: int,
    counters: Mapping[str, int],
    residual: Mapping[str, Array] | None = None,
    privacy: Privacy | None = None,
    start: str | None = None,
) -> Prepared:
    """Make a contribution; nothing is written.

    Args:
        values: Tensor -> values of this participant's generalists.
        current: The federation's generalists, which `values` started from.
        manifest: Of the federation.
        participant: Name of this participant.
        round: The open round.
        counters: Those the manifest does not list are left out.
        residual: The quantisation residual of the round before.
        privacy: What `privacy.privatise` was done with, if it was.
        start: Digest of `current`, to be stated.

    Raises:
        FederationError: If a value is not finite, or the metadata cannot work.
    """
    done = encoding.encode(values, current, manifest.encoding, residual)
    entries = {
        file: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
        for file, content in done.files.items()
    }
    listed = {name: n for name, n in counters.items() if name in manifest.counters}
    metadata = Contribution(
        participant=participant,
        round=round,
        base_fingerprint=manifest.base_model.fingerprint,
        experts=_experts(manifest.experts, values),
        encoding=manifest.encoding,
        counters=listed,
        files=entries,
        privacy=privacy,
        federation=manifest.id,
        # Earlier versions refuse what they do not know: only where the id is new too.
        start=None if manifest.id is None else start,
    )
    metadata.to_json()  # refuses what no one would accept
    return Prepared(metadata, done.files, done.residual)


def _experts(
    experts: SharedShape, values: Mapping[str, npt.NDArray[Any]]
) -> SharedShape:
    """The federation's shape of experts, with the rank of `values`."""
    ranks = (a.shape[1] for name, a in values.items() if name.endswith(".lora_a"))
    return dataclasses.replace(experts, rank=next(ranks, experts.rank))


@dataclass(frozen=True, eq=False)
class Stored:
    """A contribution that passed the checks: a `Source` for aggregators.

    Attributes:
        metadata: contribution.json.
        files: Tensor file -> where it is.
        layouts: Tensor file -> what is where in it.
        current: The generalists that its updates are relative to.
    """

    metadata: Contribution
    files: Mapping[str, Content]
    layouts: Mapping[str, Layout]
    current: Source

    @property
    def name(self) -> str:
        """The participant."""
        return self.metadata.participant

    @property
    def tokens(self) -> int:
        """Training tokens behind it, as the participant says."""
        return self.metadata.counters.get("tokens", 0)

    def names(self) -> Sequence[str]:
        """Its tensors, sorted."""
        return self.current.names()

    def read(self, tensor: str) -> Array:
        """The values of one tensor, decoded."""
        file, inner = file_of(tensor), expert_shape.split(tensor)[1]
        entries, content = self.layouts[file].entries, self.files[file]
        scale = entries.get(inner + encoding.SCALE)
        return encoding.decode(
            tensor,
            read_tensor(content, entries[inner]),
            None if scale is None else read_tensor(content, scale),
            self.current,
        )

    def keep(self, folder: Path) -> Stored:
        """The same contribution, its tensors in files of `folder` instead of memory."""
        paths: dict[str, Content] = {}
        for file, content in self.files.items():
            if isinstance(content, bytes):
                write_bytes(folder / file, content)
            paths[file] = folder / file if isinstance(content, bytes) else content
        return dataclasses.replace(self, files=paths)
