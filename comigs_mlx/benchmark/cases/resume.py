"""Putting a trainer where it was: checks of the files included."""

from __future__ import annotations

import mlx.core as mx

from comigs_mlx.benchmark import ours, saving
from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, spread
from comigs_mlx.training import checkpoint

ORDER = 8
SUMMARY = "restoring a trainer from its last save"
TOKENS = 0
MAIN = ()

NAME = ours.name(saving.EXPERTS)


def variants(setting: Setting) -> Makers:
    """Our restore alone: mlx-lm has no exact resume to compare it with."""

    def make() -> Variant:
        trainer = saving.trainer(setting)
        folder = saving.folder(setting, "resume", trainer)
        saving.save(folder, trainer)

        def run(index: int) -> None:
            del index
            newest = checkpoint.latest(folder.states)
            checkpoint.restore(trainer, newest, saving.IDENTITY)
            mx.eval(trainer.mixture.model.parameters())

        return Variant(run)

    return {NAME: make}


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Seconds."""
    del setting
    return {"comigs_s": spread(measured[NAME].seconds)}
