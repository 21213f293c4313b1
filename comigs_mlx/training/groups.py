"""What a level trains, and by which optimiser: plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from comigs_mlx.model import params
from comigs_mlx.model.selection import Selection
from comigs_mlx.options import TrainingOptions

BETAS = [0.9, 0.95]

Rate = Callable[[mx.array], mx.array]
"""Number of steps made -> learning rate of the next one, both scalars."""

Penalty = Callable[[Mapping[str, mx.array], Mapping[str, mx.array]], mx.array]
"""(values of a level by path, those of its anchor) -> nats, added to the mean loss."""


@dataclass(frozen=True)
class Task:
    """What the lower level trains and how; the defaults are the paper's.

    Attributes:
        roles: The roles that learn.
        frozen: Last names of parameters that stay, such as `lora_a`.
        selection: Which experts speak while training; see `Mixture.select`.
        penalty: Added to the mean loss.
    """

    roles: tuple[str, ...] = params.EXPERTS
    frozen: tuple[str, ...] = ()
    selection: Selection = "auto"
    penalty: Penalty | None = None

    def trains(self, path: str) -> bool:
        """Whether the parameter at `path` learns."""
        return _learns(path, self.roles, self.frozen)


USUAL = Task()


@dataclass
class Group:
    """Roles that share one optimiser; parameters called as in `frozen` stay."""

    roles: tuple[str, ...]
    optimizer: optim.Optimizer
    frozen: tuple[str, ...] = ()

    def trains(self, path: str) -> bool:
        """Whether the parameter at `path` learns."""
        return _learns(path, self.roles, self.frozen)


LOWEST = 0.1
"""Share of the learning rate at which a schedule ends."""


@dataclass(frozen=True)
class Schedule:
    """The experts' learning rate: half a cosine, down to `LOWEST`.

    Attributes:
        last: Expert step at which the lowest rate is reached.
        first: Expert step after which it begins; later than 0 where a run was resumed
            with another number of steps.
        share: Of the learning rate, where it begins.
    """

    last: int
    first: int = 0
    share: float = 1.0

    def at(self, step: int) -> float:
        """Share of the learning rate that the step after number `step` takes."""
        done = min(max(step - self.first, 0) / max(self.last - self.first, 1), 1.0)
        return LOWEST + (self.share - LOWEST) * (1 + math.cos(math.pi * done)) / 2

    def going_on(self, step: int, last: int) -> Schedule:
        """The schedule to another end, from where this one is after `step`: no jump."""
        if last == self.last:
            return self
        return Schedule(last, step, self.at(step)) if step else Schedule(last)

    def __call__(self, rate: float, step: mx.array) -> mx.array:
        """The learning rate of the step after number `step`, a scalar."""
        steps = max(self.last - self.first, 1)
        decay = optim.cosine_decay(rate * self.share, steps, rate / 10)
        found: mx.array = decay(step - self.first if self.first else step)
        return found


def expert_group(
    options: TrainingOptions, task: Task = USUAL, schedule: Rate | None = None
) -> Group:
    """The experts and their optimiser: AdamW.

    Args:
        options: The highest learning rate, and the number of steps.
        task: What is trained.
        schedule: The rate of a step; None: a cosine over all steps, down to a tenth.
    """
    if schedule is None:
        schedule = partial(Schedule(options.steps), options.learning_rate)
    return Group(task.roles, _adamw(schedule, options), task.frozen)


def router_group(options: TrainingOptions) -> Group:
    """The routers and their optimiser: AdamW, constant learning rate."""
    return Group(params.ROUTERS, _adamw(options.learning_rate, options))


def _adamw(rate: Any, options: TrainingOptions) -> optim.Optimizer:
    return optim.AdamW(
        rate, betas=BETAS, weight_decay=options.weight_decay, bias_correction=True
    )


def _learns(path: str, roles: tuple[str, ...], frozen: tuple[str, ...]) -> bool:
    return params.role_of(path) in roles and path.rsplit(".", 1)[-1] not in frozen
