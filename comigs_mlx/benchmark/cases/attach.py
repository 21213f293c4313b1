"""Puts fresh experts on a base model that is loaded already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.nn as nn

from comigs_mlx.benchmark import ours, plain
from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, compared
from comigs_mlx.model.mixture import Mixture

ORDER = 6
SUMMARY = "attaching to a base model in memory"
TOKENS = 0
MAIN = ()

EXPERTS = 2


def variants(setting: Setting) -> Makers:
    """Compare mlx-lm's LoRA layers with our mixture, each on a model of its own."""
    options = setting.expert_options(EXPERTS)
    mixture = partial(_attaching, setting, lambda model: Mixture(model, options))
    lora = partial(_attaching, setting, partial(plain.attach, setting))
    return {plain.NAME: lora, ours.name(EXPERTS): mixture}


def _attaching(setting: Setting, attach: Callable[[nn.Module], Any]) -> Variant:
    models: list[Any] = []

    def before(index: int) -> None:
        del index
        models.append(setting.twin())

    def run(index: int) -> None:
        del index
        models.append(attach(models[0]))

    def after(index: int) -> None:
        del index
        models.clear()

    return Variant(run, before, after)


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the seconds of both, and their ratio."""
    del setting
    lora, mixture = measured[plain.NAME].seconds, measured[ours.name(EXPERTS)].seconds
    return compared(lora, mixture)
