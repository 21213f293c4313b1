"""One trainer for many participants: each one's state is put in and taken out again.

A compiled step is a function of parameters and optimiser states, so participants whose
experts have one shape share it. Arrays are never written into, so none is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_map

from comigs_mlx.data.batches import Batch, BatchSource
from comigs_mlx.model import params
from comigs_mlx.model.params import Tree
from comigs_mlx.training.records import Position
from comigs_mlx.training.trainer import Trainer


@dataclass
class TrainerState:
    """The progress of a participant with one trainer.

    Attributes:
        optimizers: The state of each optimiser, in the order of levels and groups.
        position: The steps made so far, and the sums since the last report.
    """

    optimizers: list[Tree]
    position: Position


@dataclass(frozen=True)
class Supply:
    """The batches that a participant learns from; see `Trainer`."""

    train: BatchSource
    router_train: BatchSource
    valid: Sequence[Batch]


def fresh(trainer: Trainer) -> TrainerState:
    """Return the progress of a trainer that has made no step yet."""
    states = [
        group.optimizer.state for level in trainer.levels for group in level.groups
    ]
    copies: list[Tree] = tree_map(lambda array: array, states)
    return TrainerState(copies, Position())


def put(trainer: Trainer, values: Tree, progress: TrainerState, supply: Supply) -> None:
    """Let a trainer go on as this participant."""
    trainer.mixture.model.update(values)
    groups = [group for level in trainer.levels for group in level.groups]
    for group, state in zip(groups, progress.optimizers, strict=True):
        group.optimizer.state = state
    trainer.position = progress.position
    trainer.train, trainer.router_train = supply.train, supply.router_train
    trainer.valid = supply.valid


def take(trainer: Trainer) -> tuple[Tree, TrainerState]:
    """Return values and progress of the participant that a trainer has been."""
    groups = [group for level in trainer.levels for group in level.groups]
    values = params.select(trainer.mixture.model, params.ROLES)
    states = [group.optimizer.state for group in groups]
    return values, TrainerState(states, trainer.position)


def copied(progress: TrainerState) -> TrainerState:
    """Return a progress to go on from independently; no array is copied."""
    states: list[Tree] = tree_map(lambda array: array, progress.optimizers)
    return TrainerState(states, Position.from_dict(progress.position.to_dict()))


def packed(states: Sequence[Tree], prefix: str = "") -> dict[str, mx.array]:
    """Name the arrays of optimiser states for one file: by the index of the optimiser.

    Args:
        states: The state of each optimiser.
        prefix: The beginning of all names.
    """
    return {
        f"{prefix}{index}.{path}": array
        for index, state in enumerate(states)
        for path, array in params.flatten(state).items()
    }


def unpacked(arrays: Mapping[str, mx.array], prefix: str = "") -> list[Tree]:
    """Return the states that `packed` named; other arrays are left out."""
    states: list[Tree] = []
    while of_optimiser := under(f"{prefix}{len(states)}.", arrays):
        states.append(params.unflatten(of_optimiser))
    return states


def under(prefix: str, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the arrays whose names begin with a prefix, by the rest of their names."""
    return {k[len(prefix) :]: a for k, a in arrays.items() if k.startswith(prefix)}
