"""What a run remembers of its federation: RUN/federation.json and a residual.

RUN/state/residual.safetensors holds the quantisation residual of contributions: the one
`before/` the last contribution, so that the same one can be made again, and the one
`after/` it, for the next.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from comigs_mlx import tensors as safetensors
from comigs_mlx.errors import FederationError
from comigs_mlx.expert_shape import SharedShape
from comigs_mlx.federation.formats import schema
from comigs_mlx.federation.formats.contribution import Privacy
from comigs_mlx.federation.formats.manifest import (
    MANIFEST_BYTES,
    Manifest,
    name_check,
    text_check,
)
from comigs_mlx.federation.formats.schema import between, item, matching
from comigs_mlx.federation.formats.tensor_source import Array
from comigs_mlx.files import write_bytes

RECORD, RESIDUAL = "federation.json", "residual.safetensors"
RECORD_BYTES = MANIFEST_BYTES + 64 * 1024


class Misfit(FederationError):
    """The error of a run with another base model or shape than the federation has.

    Attributes:
        problems: A sentence for each thing that differs.
    """

    kind = "misfit"

    def __init__(self, problems: list[str]):
        super().__init__(f"this run does not fit the federation: {'; '.join(problems)}")
        self.problems = problems


@dataclass(frozen=True)
class Noise:
    """How many contributions were sent with one size of noise.

    Attributes:
        noise: The standard deviation of the noise, in units of the longest update.
        rounds: How many contributions were sent with it.
    """

    noise: float = item(between(0, 10**9))
    rounds: int = item(between(0, 10**9))


@dataclass(frozen=True)
class Membership:
    """The content of RUN/federation.json.

    Attributes:
        uri: The address of the federation, as `place` spells it.
        participant: The run's name in it; None before its first contribution.
        round: The closed round that the run's generalists started from; -1 where it
            went back to its own of before.
        step: The training step that the run had then.
        contributed: The last round that the run contributed to; 0 means none.
        private: How many contributions with noise were sent or about to be, in all
            federations of the run.
        released: The SHA-256 of the last of their contribution.json files, before it
            was signed.
        privacy: What that file stated of the privacy.
        manifest: What the federation said when this run last agreed to it; None: an
            earlier version joined.
        generalist: The digest of the generalists of `round` (see
            `tensor_source.digest`).
        personal: How the run mixed its own generalists from the contributions of
            `round`; None means that it has the shared ones.
        contributed_step: The training step that the last contribution was of; None
            where it is not known, or an earlier version sent it.
    """

    NEWER: ClassVar = ("manifest", "generalist", "personal", "contributed_step")

    uri: str = item()
    participant: str | None = item(name_check, None)
    round: int = item(between(-1, 10**9), 0)
    step: int = item(between(0, 10**12), 0)
    contributed: int = item(between(0, 10**9), 0)
    private: tuple[Noise, ...] = ()
    released: str | None = item(matching(r"[0-9a-f]{64}", "a SHA-256"), None)
    privacy: Privacy | None = None
    manifest: Manifest | None = None
    generalist: str | None = item(matching(r"[0-9a-f]{64}", "a SHA-256"), None)
    personal: str | None = item(text_check, None)
    contributed_step: int | None = item(between(0, 10**12), None)

    @property
    def in_round(self) -> bool:
        """Whether the run has contributed to the round after the one that it has."""
        return 0 < self.contributed == self.round + 1

    def learnt(self, step: int) -> int:
        """The steps that a run at this step has made and the federation was not given.

        Where it is not known what a contribution was of, it has all of them.
        """
        given = self.step
        if self.in_round:
            given = step if self.contributed_step is None else self.contributed_step
        return max(step - given, 0)


def place(uri: str) -> str:
    """One spelling of an exchange's URI: a folder's path is made absolute."""
    return uri if "://" in uri else os.path.abspath(uri)


def read(run: Path) -> Membership | None:
    """A run's record; None where it takes part in no federation.

    Raises:
        FederationError: If it is damaged.
    """
    try:
        content = (run / RECORD).read_bytes()
    except FileNotFoundError:
        return None
    return schema.read(Membership, content, str(run / RECORD), RECORD_BYTES)


def write(run: Path, membership: Membership) -> None:
    """Write a run's record, atomically."""
    content = schema.write(membership, RECORD, RECORD_BYTES)
    write_bytes(run / RECORD, content)


def residual(run: Path, uri: str, round: int) -> dict[str, Array]:
    """The quantisation residual that goes into a contribution to `round`, or nothing.

    It is kept before a contribution is sent: what is left after that one counts only
    once the run knows that the contribution does.
    """
    file = residual_file(run)
    if not file.is_file():
        return {}
    advice = "remove it, which forgets one rounding error"
    with safetensors.reading(file, FederationError, advice):
        arrays, about = safetensors.load_numpy(file)
        last = int(about.get("round", 0))
    counted = last != round and last <= _contributed(run)
    prefix = "after/" if counted else "before/"
    if about.get("uri") != place(uri):
        return {}
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }


def intended(run: Path, uri: str) -> int:
    """The last round that a contribution was made for, sent or about to be; 0: none."""
    file = residual_file(run)
    if not file.is_file():
        return 0
    try:
        about = safetensors.metadata(file)
        return int(about.get("round", 0)) if about.get("uri") == place(uri) else 0
    except (OSError, ValueError):
        return 0


def _contributed(run: Path) -> int:
    record = read(run)
    return 0 if record is None else record.contributed


def keep_residual(
    run: Path,
    uri: str,
    round: int,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
) -> None:
    """Write what `residual` reads, atomically."""
    tensors = {f"before/{name}": array for name, array in before.items()}
    tensors |= {f"after/{name}": array for name, array in after.items()}
    content = safetensors.serialise(tensors, {"uri": place(uri), "round": str(round)})
    write_bytes(residual_file(run), content)


def residual_file(run: Path) -> Path:
    """The file in which a run keeps the quantisation residual."""
    return run / "state" / RESIDUAL


def check_fits(manifest: Manifest, experts: SharedShape, fingerprint: str) -> None:
    """Raise `FederationError` unless a run has the federation's base and shape."""
    problems = []
    if fingerprint != manifest.base_model.fingerprint:
        problems.append(
            f"its base model is not the federation's ({manifest.base_model.id!a})"
        )
    for field in dataclasses.fields(experts):
        own, theirs = (getattr(e, field.name) for e in (experts, manifest.experts))
        if not _equal(own, theirs):
            problems.append(f"{field.name} is {own}, the federation's {theirs}")
    if problems:
        raise Misfit(problems)


def _equal(own: Any, theirs: Any) -> bool:
    """Whether two values are the same; numbers up to rounding."""
    if isinstance(own, float) and isinstance(theirs, float):
        return math.isclose(own, theirs, rel_tol=1e-9)
    return bool(own == theirs)
