"""Measures loss on held-out text, compiled, by expert selection, against the bare
base.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, ratio, spread
from comigs_mlx.training.evaluation import Evaluator

ORDER = 3
SUMMARY = "loss of one batch, without gradients"
TOKENS = 0
MAIN = ("ratio", "base_ratio")

EXPERTS = 2
BARE = "bare model"
SELECTIONS = ("base", "generalist", "auto")


def variants(setting: Setting) -> Makers:
    """Compare the bare base with one mixture under each selection."""
    evaluator = cache(lambda: Evaluator(setting.mixture(EXPERTS)))

    def mixture(selection: str) -> Variant:
        def run(index: int) -> None:
            evaluator().batch_losses(setting.batch(index), selection)

        return Variant(run)

    ours = {_name(selection): partial(mixture, selection) for selection in SELECTIONS}
    return {BARE: partial(_bare, setting), **ours}


def _name(selection: str) -> str:
    return f"comigs, {selection}"


def _bare(setting: Setting) -> Variant:
    model = setting.model

    @mx.compile
    def losses(tokens: mx.array) -> mx.array:
        logits = model(tokens[:, :-1]).astype(mx.float32)
        return nn.losses.cross_entropy(logits, tokens[:, 1:])

    def run(index: int) -> None:
        np.array(losses(mx.array(setting.batch(index).tokens)))

    return Variant(run)


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the seconds of the bare base and of the mixture, ratios by selection."""
    del setting
    bare = measured[BARE].seconds
    seconds = {s: measured[_name(s)].seconds for s in SELECTIONS}
    return {
        "bare_s": spread(bare),
        "comigs_s": spread(seconds["auto"]),
        "ratio": ratio(seconds["auto"], bare),
        "base_ratio": ratio(seconds["base"], bare),
        "generalist_ratio": ratio(seconds["generalist"], bare),
    }
