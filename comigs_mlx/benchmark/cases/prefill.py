"""Reads a prompt, in mlx-lm's generation loop."""

from __future__ import annotations

from comigs_mlx.benchmark import speaking
from comigs_mlx.benchmark.measure import Makers, Measured
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread

ORDER = 4
TOKENS = 256
SUMMARY = f"reading a prompt of {TOKENS} tokens"
MAIN = ("ratio",)


def variants(setting: Setting) -> Makers:
    """Compare the bare base, mlx-lm's LoRA (not fused), and mixtures by selection."""
    return speaking.variants(
        setting, lambda speaker: speaking.reading(setting, speaker, TOKENS)
    )


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return the tokens per second and their ratios."""
    del setting
    return speaking.results(measured, TOKENS)
