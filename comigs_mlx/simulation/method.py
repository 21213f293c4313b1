"""A federated method is data: a file of `methods` holds one `METHOD` of this type.

What learns where, who speaks, what is shared and what everybody receives are values;
neither the engine nor the trainer knows a method's name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from comigs_mlx import registry
from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.aggregation.personal import Personal
from comigs_mlx.model.selection import Selection
from comigs_mlx.training.level import Task

EVEN: Selection = (0.5, 0.5)
"""Two experts averaged: what methods without a router use, so that they have as many
trainable parameters as those with one."""


@dataclass(frozen=True)
class Stage:
    """Some of the rounds, in which the same parameters learn.

    Attributes:
        share: Of all rounds; the stages' shares sum to 1.
        task: What the experts' level trains, and how.
        shared: Whether generalists are exchanged at the end of these rounds.
    """

    share: float = 1.0
    task: Task = Task()
    shared: bool = True


@dataclass(frozen=True)
class Method:
    """One way of learning together, or apart.

    Attributes:
        generalists: Experts 0..G-1; None: as many as the participant has.
        specialists: The experts after them; None: as many as the participant has.
        router: How routers learn; `none` where the weights are fixed.
        router_split: The text that routers learn from, where they alternate.
        stages: What learns when.
        aggregator: A file of `federation/aggregation/aggregators`.
        personal: What each participant makes of all contributions for itself; None:
            everybody receives what the aggregator makes.
        speaks: Which experts speak when the result is measured; of several selections
            each participant takes the one with the lowest validation loss.
        any_rank: Whether participants may have ranks of their own.
        prune: A participant whose experts' last ranks, from this share on, have shrunk
            in a round gives them up; None: never.
        pooled: One participant has everybody's text.
        trained: Whether there is any training.
    """

    generalists: int | None = 1
    specialists: int | None = 1
    router: Literal["alternating", "joint", "none"] = "none"
    router_split: Literal["valid", "train"] = "valid"
    stages: tuple[Stage, ...] = (Stage(),)
    aggregator: str = "mean"
    personal: Personal | None = None
    speaks: tuple[Selection, ...] = ("auto",)
    any_rank: bool = False
    prune: float | None = None
    pooled: bool = False
    trained: bool = True

    @property
    def shared(self) -> bool:
        """Whether anything is ever exchanged."""
        return self.trained and any(stage.shared for stage in self.stages)

    def first_rounds(self, rounds: int) -> list[int]:
        """The first round (from 0) of each stage, and the number of rounds."""
        totals = itertools.accumulate(stage.share for stage in self.stages)
        return [0, *(math.ceil(total * rounds - 1e-9) for total in totals)]

    def problems(self) -> Iterator[str]:
        """One sentence for each pair of values that cannot work together."""
        if abs(sum(stage.share for stage in self.stages) - 1) > 1e-9:
            yield "the stages' shares do not sum to 1"
        if self.router != "none" and any(isinstance(s, tuple) for s in self.speaks):
            yield "a router learns, but fixed weights speak"


def names() -> list[str]:
    """All methods, as on the command line."""
    return [name.replace("_", "-") for name in registry.names("method")]


def load(name: str) -> Method:
    """The method `name`, upper or lower case.

    Raises:
        ConfigError: If there is none of that name.
    """
    file = name.lower().replace("-", "_")
    if file not in registry.names("method"):
        raise ConfigError(f"unknown method {name!r}: choose {', '.join(names())}")
    method: Method = registry.load("method", file).METHOD
    return method
