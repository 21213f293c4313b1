"""Makes a training step of the routers: gradients through all blocks to tiny
matrices.
"""

from __future__ import annotations

from functools import partial

from comigs_mlx.benchmark import ours, plain
from comigs_mlx.benchmark.measure import Makers, Measured
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, compared

ORDER = 2
SUMMARY = "one training step of the routers, against plain LoRA's step"
TOKENS = 0
MAIN = ("ratio",)

EXPERTS = 2


def variants(setting: Setting) -> Makers:
    """Compare mlx-lm's LoRA step with our router step."""
    return {
        plain.NAME: partial(plain.training_step, setting),
        ours.name(EXPERTS): partial(ours.router_step, setting, EXPERTS),
    }


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the seconds of both, and their ratio."""
    del setting
    lora, routers = measured[plain.NAME].seconds, measured[ours.name(EXPERTS)].seconds
    return compared(lora, routers)
