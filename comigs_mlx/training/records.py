"""The records that training yields while it runs, and its position: plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from comigs_mlx.training.level import StepResult


@dataclass(frozen=True)
class Step:
    """The record of one step.

    Attributes:
        level: The level that made the step: `expert` or `router`.
        index: The number of steps of that level so far.
        loss: The mean loss in nats per token.
        tokens: The number of tokens that it learned from.
    """

    level: str
    index: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class Report:
    """The means since the last report; one line of metrics.jsonl.

    Attributes:
        step: The number of expert steps so far.
        train_loss: The loss of the expert steps, in nats per token.
        router_loss: The loss of the router steps, in nats per token; None if there were
            none.
        valid_loss: The loss of a fixed sample of the validation text, where measured;
            nats per token.
        learning_rate: The learning rate of the experts in the last step.
        expert_share: Maps an expert's name to its mean weight in the expert steps.
        tokens_per_second: The speed of both levels, over the time spent in steps.
        peak_memory_gb: The largest memory in use so far, in 10^9 bytes.
    """

    step: int
    train_loss: float
    router_loss: float | None
    valid_loss: float | None
    learning_rate: float
    expert_share: dict[str, float]
    tokens_per_second: float
    peak_memory_gb: float


@dataclass(frozen=True)
class Boundary:
    """The record that an expert step, and the router phase if one was due, is complete.

    The trainer can be saved for an exact resume only here.

    Attributes:
        step: The number of expert steps so far.
        valid_loss: The validation loss where a save is due; nats per token, the lowest
            is the best.
    """

    step: int
    valid_loss: float | None


@dataclass(frozen=True)
class Pause:
    """The record that training waits between two steps, or that it goes on again.

    Attributes:
        step: The number of expert steps so far.
        reason: The reason in a few words; None where training goes on.
        seconds: The length of the pause, where it is over.
    """

    step: int
    reason: str | None
    seconds: float = 0.0


@dataclass(frozen=True)
class Exchanged:
    """The record of an exchange with a federation; one line of rounds.jsonl.

    Attributes:
        step: The number of expert steps so far.
        event: `pulled`; `contributed`; `late`: the round closed before this run's
            contribution; `offline`: out of reach, the contribution waits;
            `refused`: what is there is not trusted, nothing was sent or pulled.
        round: The round that it is about.
        valid_loss: The validation loss of what was contributed, where measured; nats
            per token.
        contributors: The names of the participants who contributed to a pulled round.
        bytes_sent: The bytes of files sent since the event before.
        bytes_received: The bytes of files received since the event before.
        note: A sentence that the user should know.
    """

    step: int
    event: str
    round: int
    valid_loss: float | None = None
    contributors: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass
class Sums:
    """The sums over the steps of one level since the last report."""

    loss: float = 0.0
    tokens: int = 0
    share: list[float] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        """Add one step, weighted by its tokens."""
        shares = [s * result.tokens for s in result.share]
        before = self.share or [0.0] * len(shares)
        self.share = [a + b for a, b in zip(before, shares, strict=True)]
        self.loss += result.loss * result.tokens
        self.tokens += result.tokens

    @property
    def mean_loss(self) -> float | None:
        """Nats per token; None without a step."""
        return self.loss / self.tokens if self.tokens else None


@dataclass
class Position:
    """The position of a training, apart from the arrays.

    Attributes:
        step: The number of expert steps so far.
        router_step: The number of router steps so far.
        expert_sums: The sums over expert steps since the last report.
        router_sums: The sums over router steps since the last report.
        refreshed: The router steps among `router_step` that the schedule does not have.
        best: The lowest validation loss so far, in nats per token; None before one.
        stale: The number of measurements since that were no lower.
    """

    step: int = 0
    router_step: int = 0
    expert_sums: Sums = field(default_factory=Sums)
    router_sums: Sums = field(default_factory=Sums)
    refreshed: int = 0
    best: float | None = None
    stale: int = 0

    def measured(self, valid_loss: float) -> None:
        """Count a measurement of the validation loss; NaN is never the best."""
        if math.isfinite(valid_loss) and (self.best is None or valid_loss < self.best):
            self.best, self.stale = valid_loss, 0
        else:
            self.stale += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Position:
        """Build a position from what `to_dict` returned."""
        sums = ("expert_sums", "router_sums")
        return Position(**{**values, **{name: Sums(**values[name]) for name in sums}})
