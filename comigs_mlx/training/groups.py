"""What a level trains, and by which optimiser: plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from comigs_mlx.model import params
from comigs_mlx.model.selection import Selection
from comigs_mlx.options import TrainingOptions

BETAS = [0.9, 0.95]

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


def expert_group(options: TrainingOptions, task: Task = USUAL) -> Group:
    """The experts and their optimiser: AdamW, cosine from lr to lr / 10."""
    rate = options.learning_rate
    schedule = optim.cosine_decay(rate, options.steps, rate / 10)
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
