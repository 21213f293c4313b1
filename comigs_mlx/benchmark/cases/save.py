"""Saves a run, for use and for an exact resume."""

from __future__ import annotations

from comigs_mlx.benchmark import ours, saved_trainer
from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, spread

ORDER = 7
SUMMARY = "saving a run"
TOKENS = 0
MAIN = ()

NAME = ours.name(saved_trainer.EXPERTS)


def variants(setting: Setting) -> Makers:
    """Measure our save alone: mlx-lm has no exact resume to compare it with."""

    def make() -> Variant:
        trainer = saved_trainer.trainer(setting)
        folder = saved_trainer.folder(setting, "save", trainer)
        return Variant(lambda index: saved_trainer.save(folder, trainer))

    return {NAME: make}


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the seconds."""
    del setting
    return {"comigs_s": spread(measured[NAME].seconds)}
