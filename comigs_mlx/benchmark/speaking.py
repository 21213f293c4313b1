"""Makes variants that run a model in mlx-lm's generation loop.

All of them use the same `generate_step`; a mixture is called as our `generate` command
calls it, through a `Recorder` that keeps the routing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step, generation_stream

from comigs_mlx.benchmark import ours, plain
from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, rate, ratio
from comigs_mlx.inference.generation import Recorder

BARE = "bare model"
BASE = "comigs, base"
GENERALIST = "comigs, generalist"
FEW, MANY = 2, 8
"""The numbers of experts of the two mixtures."""

ReadyModel = Callable[[], Any]
"""Returns a model that `generate_step` takes, ready for one answer."""


def variants(setting: Setting, variant: Callable[[ReadyModel], Variant]) -> Makers:
    """Make all speakers; `variant` makes what one of them is measured by."""
    mixture = cache(setting.mixture)

    def speaker(experts: int, selection: str) -> ReadyModel:
        attached = mixture(experts)

        def ready() -> Recorder:
            attached.select(selection)
            return Recorder(attached)

        return ready

    def model(plain_model: Any) -> ReadyModel:
        return lambda: plain_model

    return {
        plain.NAME: lambda: variant(model(plain.attach(setting, setting.twin()))),
        BARE: lambda: variant(model(setting.model)),
        ours.name(FEW): lambda: variant(speaker(FEW, "auto")),
        ours.name(MANY): lambda: variant(speaker(MANY, "auto")),
        GENERALIST: lambda: variant(speaker(FEW, "generalist")),
        BASE: lambda: variant(speaker(FEW, "base")),
    }


def results(measured: dict[str, Measured], tokens: int) -> dict[str, Spread]:
    """Return the tokens per second and ratios of them: above 1 is faster."""
    seconds = {name: runs.seconds for name, runs in measured.items()}
    lora = seconds[plain.NAME]
    speeds = {
        "plain_lora_tps": rate(tokens, lora),
        "comigs_tps": rate(tokens, seconds[ours.name(FEW)]),
        "bare_tps": rate(tokens, seconds[BARE]),
    }
    by_experts = {
        f"by_experts.{count}": ratio(lora, seconds[ours.name(count)])
        for count in (FEW, MANY)
    }
    return {
        **speeds,
        "ratio": by_experts[f"by_experts.{FEW}"],
        "base_ratio": ratio(seconds[BARE], seconds[BASE]),
        "generalist_ratio": ratio(lora, seconds[GENERALIST]),
        **by_experts,
    }


def reading(setting: Setting, speaker: ReadyModel, length: int) -> Variant:
    """Read a prompt of `length` tokens, up to the first new token."""

    def run(index: int) -> None:
        prompt = setting.prompt(index, length)
        # With max_tokens=0, it ends once the first token is there.
        list(generate_step(prompt, speaker(), max_tokens=0))
        mx.synchronize(generation_stream)

    return Variant(run)


def writing(setting: Setting, speaker: ReadyModel, prompt: int, tokens: int) -> Variant:
    """Write `tokens` tokens after the first one, which answers a prompt."""
    answers: list[Iterator[Any]] = []

    def before(index: int) -> None:
        ids = setting.prompt(index, prompt)
        answers[:] = [iter(generate_step(ids, speaker(), max_tokens=tokens))]
        next(answers[0])  # from here on, one model step a token

    def run(index: int) -> None:
        del index
        for _ in answers[0]:
            pass
        mx.synchronize(generation_stream)  # one more token is computed, not returned

    def after(index: int) -> None:
        del index
        answers.clear()

    return Variant(run, before, after)
