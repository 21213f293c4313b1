"""What a simulation tells while it runs: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Planned:
    """What is to be done.

    Attributes:
        steps: Expert steps of all participants, in all methods and seeds that are left.
    """

    steps: int


@dataclass(frozen=True)
class Begun:
    """A method and seed begin, or go on.

    Attributes:
        steps: Expert steps of all participants still to be made.
        round: Rounds done before.
    """

    method: str
    seed: int
    steps: int
    round: int


@dataclass(frozen=True)
class Stepped:
    """One participant made one step; see `training.records.Step`."""

    method: str
    participant: str
    round: int
    level: str
    loss: float


@dataclass(frozen=True)
class RoundDone:
    """A round is over; one line of rounds.jsonl.

    Attributes:
        method: Its name.
        seed: Of this run.
        round: From 1.
        active: Who took part.
        lost: Whose contribution did not arrive.
        train_loss: Participant -> nats per token in its expert steps.
        router_loss: Participant -> the same in its router steps; None without any.
        expert_share: Participant -> expert -> mean weight in its expert steps.
        bytes: Sent and received by all participants together.
        inexactness: Of the average; see `aggregation.inexactness`.
        ranks: Participant -> rank of its experts.
        test_loss: Participant -> nats per token on its test text, where measured.
        layer_share: Participant -> block -> weight of each expert on its test text,
            where measured.
        seconds: Spent on this round, measuring left out.
        notes: What happened to single contributions (outsized ones), a sentence each.
    """

    method: str
    seed: int
    round: int
    active: list[str]
    lost: list[str]
    train_loss: dict[str, float]
    router_loss: dict[str, float | None]
    expert_share: dict[str, dict[str, float]]
    bytes: int
    inexactness: float | None
    ranks: dict[str, int]
    test_loss: dict[str, float] = field(default_factory=dict)
    layer_share: dict[str, list[list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What one method came to with one seed.

    Attributes:
        loss: Participant -> nats per token on its test text.
        tokens: Participant -> number of test tokens predicted.
        speaks: Participant -> which experts spoke.
        trainable: Trainable scalars of each participant.
        bytes_per_round: Mean over the rounds, of all participants together.
        seconds: Training and sharing, measuring left out.
        similarity: Names and cosines of all experts; see `similarity`.
    """

    method: str
    seed: int
    loss: dict[str, float]
    tokens: dict[str, int]
    speaks: dict[str, str]
    trainable: dict[str, int]
    bytes_per_round: float
    seconds: float
    similarity: dict[str, list[list[float]] | list[str]]


Event = Planned | Begun | Stepped | RoundDone | Outcome
"""Anything of these."""
