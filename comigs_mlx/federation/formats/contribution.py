"""The contribution of one participant to one round: contribution.json and adapter
files.

    contributions/<round>/<participant>/contribution.json
                                        adapters.safetensors
                                        generalist-1/adapters.safetensors ...

contribution.json (a public format) says what the tensor files are, whose they are, for
which round and on which base model. Of the participant's text and device it holds only
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
from comigs_mlx.federation.formats.tensor_file import FileContent, Layout, read_tensor
from comigs_mlx.federation.formats.tensor_source import Array, Source, file_of
from comigs_mlx.files import write_bytes

CONTRIBUTION = "contribution.json"
METADATA_BYTES = 64 * 1024


@dataclass(frozen=True)
class FileEntry:
    """Hash and size of one tensor file."""

    sha256: str = item(matching(r"[0-9a-f]{64}", "a SHA-256"))
    bytes: int = item(between(0, 10**12))


@dataclass(frozen=True)
class Privacy:
    """The differential privacy of the participant's updates so far; see `privacy`.

    Attributes:
        epsilon: The privacy loss over all its rounds in this federation.
        delta: The probability with which the guarantee may fail.
        clip: The largest norm of an update.
        noise: The standard deviation of the noise, in units of `clip`.
    """

    epsilon: float = item(between(0, 10**9))
    delta: float = item(between(0, 1))
    clip: float = item(between(0, 10**9))
    noise: float = item(between(0, 10**9))


@dataclass(frozen=True)
class Contribution:
    """The content of contribution.json.

    Attributes:
        participant: The participant's name.
        round: The number of the open round that it is for.
        base_fingerprint: The fingerprint of the base model it was trained on.
        experts: The shape of the generalists in the tensor files.
        encoding: The encoding of the tensors.
        counters: Maps a counter to its number in this round; of tokens it is an upper
            bound.
        files: Maps a tensor file, relative to contribution.json, to its hash and size.
        signature: The signature (see `signatures`); None where it is not signed.
        privacy: The guarantee of the updates so far; None where no noise was added.
        federation: The id of the federation that it is for.
        start: The digest of the generalists that it was trained from.
        account: The account that commits it, as it says itself; believed only where the
            history does not tell any more, see `attribution`.
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
            FederationError: If anything is wrong; the text lists all of it.
        """
        return schema.read(cls, content, CONTRIBUTION, METADATA_BYTES)

    def to_json(self) -> bytes:
        """Write the content of contribution.json; equal values give equal bytes.

        Raises:
            FederationError: If a value cannot work.
        """
        return schema.write(self, CONTRIBUTION, METADATA_BYTES)

    def signed_bytes(self) -> bytes:
        """Return what is signed: every entry but the signature, in canonical form.

        It covers the tensors through the SHA-256 of their files.
        """
        content = schema.to_dict(Contribution.from_json(self.to_json()))  # 16 is 16.0
        del content["signature"]
        return canonical(content)

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        for name, number in self.counters.items():
            if name not in COUNTERS:
                yield f"counters: unknown counter {schema.shown(name)}"
            elif not 0 <= number <= COUNTERS[name]:
                yield f"counters: {name} {number} is not plausible"


@dataclass(frozen=True)
class Prepared:
    """A contribution ready to be pushed.

    Attributes:
        metadata: The content of contribution.json.
        tensors: Maps each tensor file to its content.
        residual: The quantisation residual, which `prepare` takes in the next round.
    """

    metadata: Contribution
    tensors: dict[str, bytes]
    residual: dict[str, Array]

    def by(self, account: str | None) -> Prepared:
        """State the account that commits it, where none is stated yet.

        A signed contribution stays as it was signed. In a federation without an id, of
        version 0.1, an older program may close the round, and refuse this entry.
        """
        stated = self.metadata
        valid = account is not None and re.fullmatch(ACCOUNT, account)
        settled = stated.account is not None or stated.signature is not None
        if not valid or settled or stated.federation is None:
            return self
        metadata = dataclasses.replace(stated, account=account)
        return dataclasses.replace(self, metadata=metadata)

    def files(self) -> dict[str, bytes]:
        """Return all files that leave this device, relative to the participant's
        folder.
        """
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
        values: Maps each tensor to its values in this participant's generalists.
        current: The federation's generalists, which `values` started from.
        manifest: The manifest of the federation.
        participant: The name of this participant.
        round: The number of the open round.
        counters: The counters; those that the manifest does not list are left out.
        residual: The quantisation residual of the round before.
        privacy: The guarantee of `privacy.privatise`, if it was used.
        start: The digest of `current`, to be stated.

    Raises:
        FederationError: If a value is not finite, or the metadata cannot work.
    """
    encoded = encoding.encode(values, current, manifest.encoding, residual)
    entries = {
        file: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
        for file, content in encoded.files.items()
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
        # Earlier versions refuse an unknown entry, and they know no id either.
        start=None if manifest.id is None else start,
    )
    metadata.to_json()  # raises for what no one would accept
    return Prepared(metadata, encoded.files, encoded.residual)


def _experts(
    experts: SharedShape, values: Mapping[str, npt.NDArray[Any]]
) -> SharedShape:
    """Return the federation's shape of experts with the rank of `values`."""
    ranks = (a.shape[1] for name, a in values.items() if name.endswith(".lora_a"))
    return dataclasses.replace(experts, rank=next(ranks, experts.rank))


@dataclass(frozen=True, eq=False)
class Stored:
    """A contribution that passed the checks: a `TensorSource` for aggregators.

    Attributes:
        metadata: The content of contribution.json.
        files: Maps each tensor file to its content or its path.
        layouts: Maps each tensor file to the places of its tensors.
        current: The generalists that its updates are relative to.
    """

    metadata: Contribution
    files: Mapping[str, FileContent]
    layouts: Mapping[str, Layout]
    current: Source

    @property
    def name(self) -> str:
        """The participant."""
        return self.metadata.participant

    @property
    def tokens(self) -> int:
        """The number of training tokens behind it, as the participant states it."""
        return self.metadata.counters.get("tokens", 0)

    def names(self) -> Sequence[str]:
        """List its tensors, sorted."""
        return self.current.names()

    def read(self, tensor: str) -> Array:
        """Read and decode the values of one tensor."""
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
        """Move its tensors from memory to files of `folder`."""
        paths: dict[str, FileContent] = {}
        for file, content in self.files.items():
            if isinstance(content, bytes):
                write_bytes(folder / file, content)
            paths[file] = folder / file if isinstance(content, bytes) else content
        return dataclasses.replace(self, files=paths)
