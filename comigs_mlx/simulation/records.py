"""The records that a simulation yields while it runs: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Planned:
    """The record of what is to be done.

    Attributes:
        steps: The expert steps of all participants, in all methods and seeds that are
            left.
    """

    steps: int


@dataclass(frozen=True)
class Begun:
    """The record that a method and seed begin, or go on.

    Attributes:
        steps: The expert steps of all participants still to be made.
        round: The number of rounds done before.
    """

    method: str
    seed: int
    steps: int
    round: int


@dataclass(frozen=True)
class Stepped:
    """The record of one participant's step; see `training.records.Step`."""

    method: str
    participant: str
    round: int
    level: str
    loss: float


@dataclass(frozen=True)
class RoundDone:
    """The record of a round; one line of rounds.jsonl.

    Attributes:
        method: The name of the method.
        seed: The seed of the method.
        round: The number of the round, from 1.
        active: The participants that took part.
        lost: The participants whose contribution did not arrive.
        train_loss: Maps a participant to the nats per token in its expert steps.
        router_loss: Maps a participant to the nats per token in its router steps; None
            without any.
        expert_share: Maps a participant and an expert to its mean weight in the expert
            steps.
        bytes: The bytes sent and received by all participants together.
        inexactness: The inexactness of the average; see `aggregation.inexactness`.
        ranks: Maps a participant to the rank of its experts.
        test_loss: Maps a participant to the nats per token on its test text, where
            measured.
        layer_share: Maps a participant and a block to the weight of each expert on its
            test text, where measured.
        seconds: The time spent on this round, without measuring.
        notes: A sentence for each contribution that something happened to, such as an
            outsized one.
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
    """The result of one method with one seed.

    Attributes:
        loss: Maps a participant to the nats per token on its test text.
        tokens: Maps a participant to its number of predicted test tokens.
        speaks: Maps a participant to the selection of the experts that spoke.
        trainable: Maps a participant to its number of trainable scalars.
        bytes_per_round: The bytes of all participants together, mean over the rounds.
        seconds: The time of training and sharing, without measuring.
        similarity: The names and cosines of all experts; see `similarity`.
        by_selection: Maps a participant and a selection to nats per token on its test
            text, with `oracle` for the least of the single experts' at each token;
            empty unless it is asked for.
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
    by_selection: dict[str, dict[str, float]] = field(default_factory=dict)


SimulationEvent = Planned | Begun | Stepped | RoundDone | Outcome
"""Any of these records."""
