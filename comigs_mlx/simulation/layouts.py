"""One base in memory, and one mixture with compiled steps for each shape of experts.

Every shape gets a copy of the base's modules that holds the base's own arrays, so that
a further shape costs its experts only. Participants of one shape take turns in it.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.nn as nn

from comigs_mlx.model import params
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.options import ExpertOptions, SavingOptions, TrainingOptions
from comigs_mlx.training import trainer_state
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Task
from comigs_mlx.training.trainer import Trainer
from comigs_mlx.training.trainer_state import Supply, TrainerState

NEVER = 10**9
"""The steps between two saves of a trainer: the engine saves instead."""


def sharing_arrays(model: nn.Module) -> nn.Module:
    """Copy the modules of `model`; its parameters are the very same arrays."""
    arrays = params.flatten(model.parameters()).values()
    memo: dict[int, Any] = {id(array): array for array in arrays}
    return copy.deepcopy(model, memo)


class Layouts:
    """The mixtures, trainers and evaluators of a simulation, each made once."""

    def __init__(self, base: Base):
        self.base, self.fingerprint = base, base.fingerprint()
        self._mixtures: dict[ExpertOptions, Mixture] = {}
        self._evaluators: dict[ExpertOptions, Evaluator] = {}
        self._trainers: dict[Any, tuple[Trainer, TrainerState]] = {}

    def mixture(self, options: ExpertOptions) -> Mixture:
        """Return a mixture of this shape on the base, with the values of any
        participant.
        """
        if options not in self._mixtures:
            model = sharing_arrays(self.base.model)
            self._mixtures[options] = Mixture(model, options)
        return self._mixtures[options]

    def evaluator(self, options: ExpertOptions) -> Evaluator:
        """Return the evaluator for experts of this shape."""
        if options not in self._evaluators:
            self._evaluators[options] = Evaluator(self.mixture(options))
        return self._evaluators[options]

    def trainer(
        self,
        options: ExpertOptions,
        training: TrainingOptions,
        task: Task,
        report_every: int,
        supply: Supply,
    ) -> tuple[Trainer, TrainerState]:
        """Return a trainer for experts of this shape, and the progress to begin
        with.
        """
        key = (options, training, task, report_every)
        if key not in self._trainers:
            saving = SavingOptions(report_every=report_every, save_every=NEVER)
            trainer = Trainer(
                self.mixture(options),
                supply.train,
                supply.router_train,
                supply.valid,
                training,
                saving,
                task,
            )
            self._trainers[key] = trainer, trainer_state.fresh(trainer)
        trainer, begin = self._trainers[key]
        return trainer, trainer_state.copied(begin)

    def fresh_values(self, options: ExpertOptions, seed: int) -> Tree:
        """Return the values that a mixture of this shape begins with."""
        mixture = Mixture(sharing_arrays(self.base.model), options, seed)
        return params.select(mixture.model, params.ROLES)
