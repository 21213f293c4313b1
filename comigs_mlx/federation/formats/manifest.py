"""federation.json: what the participants of a federation agree on (a public format)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

from comigs_mlx.expert_shape import SharedShape
from comigs_mlx.federation.formats import schema
from comigs_mlx.federation.formats.schema import between, each, item, matching
from comigs_mlx.model import licence

MANIFEST = "federation.json"
PARTICIPANT = r"[a-z0-9][a-z0-9-]{0,38}"
"""What the name of a participant matches, in full."""

ACCOUNT = r"\w[\w.-]{0,95}"
"""What the name of an account of the Hub looks like."""

ID = r"[0-9a-f]{32}"

COUNTERS = {"tokens": 10**13, "steps": 10**10}
"""Every counter there is, with the largest plausible number in one round."""

MOST_PARTICIPANTS = 10_000
MOST_BYTES = 16 * 2**30
"""Of one contribution, whatever a manifest says."""

MANIFEST_BYTES = 4 * 2**20

Encoding = Literal["fp16", "fp32", "int8"]
Shapes = Mapping[str, tuple[int, ...]]
"""Tensor -> shape. Tensors of generalist i > 0 are called `generalist-i/<tensor>`."""

name_check = matching(PARTICIPANT, "a participant's name (a-z, 0-9 and -, at most 39)")
text_check = matching(r"[^\x00-\x1f\x7f]{1,300}", "one line of text")


@dataclass(frozen=True)
class BaseModel:
    """The model that every participant has frozen beneath the experts."""

    id: str = item(text_check)
    fingerprint: str = item(matching(r"[\w:.-]{1,128}", "a fingerprint"))


@dataclass(frozen=True)
class AggregatorChoice:
    """A file of `aggregators`, and the options that differ from its own.

    Whether this version has such an aggregator is not asked here, so that everybody
    can read a manifest; `aggregate.check` asks it where a round is opened or closed.
    """

    name: str = item(text_check, "mean")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """Whose contributions count under a participant's name."""

    account: str | None = item(matching(ACCOUNT, "an account of the Hub"), None)
    public_key: str | None = item(
        matching(r"[0-9a-f]{64}", "an Ed25519 public key (64 hex digits)"), None
    )


@dataclass(frozen=True)
class Manifest:
    """What the participants of a federation agree on.

    Attributes:
        base_model: What they train on.
        experts: The shape of what they share.
        max_bytes: Most that all tensor files of one contribution may have together;
            `cap` derives it from the shapes.
        aggregator: How contributions become the next generalist.
        quorum: Contributions that a round needs before it may close.
        deadline_seconds: After a round has this age it may close with fewer, but
            at least one; None: never.
        participants: Who may contribute; None: anyone.
        encoding: Of the tensors in a contribution.
        norm_factor: An update longer than this times the round's median is outsized.
        norm_action: What happens to an outsized update.
        counters: Those a contribution may carry.
        require_signatures: Whether a contribution must be signed by its participant.
        id: Names this federation and no other, drawn when it was founded; None where
            an earlier version made it.
        norm_few: "bounded": one or two updates of a round, which have no majority to be
            compared with, are compared with earlier rounds and each other; None, in
            federations of earlier versions: they are not.
        founder: The account that founded it and decides on proposals; None where
            nobody is known, or an earlier version made it.
        license: The licence of the shared generalists, by the Hub's name for it; None
            where it is not known, or an earlier version made it.
        base_license: The same of the base model, whose duties go on with them.
    """

    NEWER: ClassVar = ("id", "founder", "norm_few", "license", "base_license")

    base_model: BaseModel
    experts: SharedShape
    max_bytes: int = item(between(1, MOST_BYTES))
    aggregator: AggregatorChoice = dataclasses.field(default_factory=AggregatorChoice)
    quorum: int = item(between(1, MOST_PARTICIPANTS), 1)
    deadline_seconds: float | None = item(between(1, 10**9), None)
    participants: Mapping[str, Member] | None = item(
        each(name_check, MOST_PARTICIPANTS), None
    )
    encoding: Encoding = "fp16"
    norm_factor: float = item(between(1, 10**6), 3.0)
    norm_action: Literal["clip", "refuse", "off"] = "clip"
    counters: tuple[str, ...] = item(
        each(matching("|".join(COUNTERS), f"one of {', '.join(COUNTERS)}"), 10),
        tuple(COUNTERS),
    )
    require_signatures: bool = False
    id: str | None = item(matching(ID, "32 hex digits"), None)
    founder: str | None = item(matching(ACCOUNT, "an account of the Hub"), None)
    norm_few: Literal["bounded"] | None = None
    license: str | None = item(matching(licence.ID, "a licence's name"), None)
    base_license: str | None = item(matching(licence.ID, "a licence's name"), None)

    @classmethod
    def from_json(cls, content: bytes | str) -> Manifest:
        """Read federation.json.

        Raises:
            FederationError: All that is wrong with it, at once.
        """
        return schema.read(cls, content, MANIFEST, MANIFEST_BYTES)

    def to_json(self) -> bytes:
        """The content of federation.json.

        Raises:
            FederationError: If a value cannot work.
        """
        return schema.write(self, MANIFEST, MANIFEST_BYTES)

    def problems(self) -> Iterator[str]:
        """One sentence for each pair of values that cannot work together."""
        allowed = self.participants
        if allowed is not None and self.quorum > len(allowed):
            yield f"quorum {self.quorum} is more than the {len(allowed)} participants"
        if self.require_signatures:
            for name, member in (allowed or {}).items():
                if member.public_key is None:
                    yield f"require_signatures: {name} has no public_key"
            if allowed is None:
                yield "require_signatures needs participants with their public keys"


def cap(shapes: Shapes) -> int:
    """`max_bytes` for generalists of these shapes: float32 and a quarter of slack."""
    values = sum(prod(shape) for shape in shapes.values())
    return 5 * values + 512 * len(shapes) + 4096
