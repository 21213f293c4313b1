"""A federated method is data: a file of `methods` holds one `METHOD` of this type.

A method's values say what learns, which experts speak, what is shared and what each
participant receives; neither the engine nor the trainer knows a method's name.
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
"""Two experts averaged. Methods without a router use it, so that they have as many
trainable parameters as those with one."""


@dataclass(frozen=True)
class Stage:
    """Some of the rounds, in which the same parameters learn.

    Attributes:
        share: The share of all rounds; the stages' shares sum to 1.
        task: The task: what the experts' level trains, and how.
        shared: Whether generalists are exchanged at the end of these rounds.
    """

    share: float = 1.0
    task: Task = Task()
    shared: bool = True


@dataclass(frozen=True)
class Method:
    """A way of learning together, or apart.

    Attributes:
        generalists: The number of generalists, experts 0..G-1; None takes as many as
            the participant has.
        specialists: The number of specialists, the experts after them; None takes as
            many as the participant has.
        router: The way in which routers learn; `none` where the weights are fixed.
        router_split: The split that routers learn from, where they alternate.
        stages: The stages, which say what learns when.
        aggregator: The name of a file of `federation/aggregation/aggregators`.
        personal: The function by which each participant combines all contributions for
            itself; None lets everybody receive the aggregator's result.
        speaks: The selections when the result is measured; of several, each participant
            takes the one with the lowest validation loss.
        any_rank: Whether participants may have ranks of their own.
        prune: The share of the rank from which on a participant gives up its experts'
            last ranks if they have shrunk in a round; None for never.
        pooled: Whether one participant has the text of all.
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
        """Return the first round (from 0) of each stage, and the number of rounds."""
        totals = itertools.accumulate(stage.share for stage in self.stages)
        return [0, *(math.ceil(total * rounds - 1e-9) for total in totals)]

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each pair of values that cannot work together."""
        if abs(sum(stage.share for stage in self.stages) - 1) > 1e-9:
            yield "the stages' shares do not sum to 1"
        if self.router != "none" and any(isinstance(s, tuple) for s in self.speaks):
            yield "a router learns, but fixed weights speak"


def names() -> list[str]:
    """List all methods, as on the command line."""
    return [name.replace("_", "-") for name in registry.names("method")]


def load(name: str) -> Method:
    """Load the method `name`, upper or lower case.

    Raises:
        ConfigError: If there is no method of that name.
    """
    file = name.lower().replace("-", "_")
    if file not in registry.names("method"):
        raise ConfigError(f"unknown method {name!r}: choose {', '.join(names())}")
    method: Method = registry.load("method", file).METHOD
    return method
