"""Makes a training step of the experts: forward, backward, AdamW, compiled."""

from __future__ import annotations

from functools import partial

from comigs_mlx.benchmark import ours, plain
from comigs_mlx.benchmark.measure import Makers, Measured
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, ratio, spread

ORDER = 1
SUMMARY = "one training step of the experts"
TOKENS = 0
MAIN = ("ratio", "by_experts", "peak_memory_ratio")


def variants(setting: Setting) -> Makers:
    """Compare mlx-lm's LoRA, ours by number of experts, and the naive mixture."""
    shape = setting.shape
    mixtures = {
        ours.name(e): partial(ours.expert_step, setting, e) for e in shape.experts
    }
    naive = {
        ours.naive_name(e): partial(ours.naive_expert_step, setting, e)
        for e in shape.naive
    }
    return {plain.NAME: partial(plain.training_step, setting), **mixtures, **naive}


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return main seconds, and ratios of time and peak memory to plain LoRA."""
    shape, lora = setting.shape, measured[plain.NAME]
    names = {"by_experts": {e: ours.name(e) for e in shape.experts}}
    names["naive_by_experts"] = {e: ours.naive_name(e) for e in shape.naive}
    times = {
        f"{kind}.{e}": ratio(measured[name].seconds, lora.seconds)
        for kind, variant_of in names.items()
        for e, name in variant_of.items()
    }
    memory = {
        f"peak_memory_{kind}.{e}": ratio(measured[name].peak_bytes, lora.peak_bytes)
        for kind, variant_of in names.items()
        for e, name in variant_of.items()
    }
    main = shape.main_experts
    return {
        "plain_lora_s": spread(lora.seconds),
        "comigs_s": spread(measured[ours.name(main)].seconds),
        "ratio": times[f"by_experts.{main}"],
        **times,
        "peak_memory_ratio": memory[f"peak_memory_by_experts.{main}"],
        **memory,
    }
