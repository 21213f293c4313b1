"""A trainer after its first step and the folder it is saved in, to time save and
resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.data.batches import Batch
from comigs_mlx.options import SavingOptions, TrainConfig, TrainingOptions
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.records import Boundary
from comigs_mlx.training.trainer import Trainer

EXPERTS = 2
IDENTITY: dict[str, Any] = {"base_model": "of the benchmark"}


@dataclass(frozen=True)
class _Random:
    """Random batches without end."""

    setting: Setting

    def batch(self, index: int) -> Batch:
        return self.setting.batch(index)


def trainer(setting: Setting) -> Trainer:
    """Make a trainer of two experts and one step, so its optimisers hold values.

    The routers' optimiser holds values from the start.
    """
    source = _Random(setting)
    trainer = Trainer(
        setting.mixture(EXPERTS), source, source, [], TrainingOptions(), SavingOptions()
    )
    next(trainer.run())
    return trainer


def folder(setting: Setting, name: str, trainer: Trainer) -> RunFolder:
    """Make a new run folder for the trainer, without a save."""
    folder = RunFolder(setting.scratch / name)
    folder.create(TrainConfig(), trainer.mixture, setting.shape.model, "0" * 64)
    return folder


def save(folder: RunFolder, trainer: Trainer) -> None:
    """Save for use and for an exact resume, as training does."""
    folder.save(trainer, Boundary(trainer.position.step, None), IDENTITY)
