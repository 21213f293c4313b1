"""Restores a trainer from its last save, with the checks of its files."""

from __future__ import annotations

import mlx.core as mx

from comigs_mlx.benchmark import ours, saved_trainer
from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, spread
from comigs_mlx.training import checkpoint

ORDER = 8
SUMMARY = "restoring a trainer from its last save"
TOKENS = 0
MAIN = ()

NAME = ours.name(saved_trainer.EXPERTS)


def variants(setting: Setting) -> Makers:
    """Measure our restore alone: mlx-lm has no exact resume to compare it with."""

    def make() -> Variant:
        trainer = saved_trainer.trainer(setting)
        folder = saved_trainer.folder(setting, "resume", trainer)
        saved_trainer.save(folder, trainer)

        def run(index: int) -> None:
            del index
            newest = checkpoint.latest(folder.states)
            checkpoint.restore(trainer, newest, saved_trainer.IDENTITY)
            mx.eval(trainer.mixture.model.parameters())

        return Variant(run)

    return {NAME: make}


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the seconds."""
    del setting
    return {"comigs_s": spread(measured[NAME].seconds)}
