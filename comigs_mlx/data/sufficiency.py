"""Tells for how many steps a text is enough, before anything is learnt; no MLX.

A model that reads the same text again learns less each time. Muennighoff et al. 2023
("Scaling Data-Constrained Language Models", sections 5 and 6) found that up to four
passes are worth nearly as much as new text, and that after about 16 passes (their R*_D
of 15.4 repetitions) more of them teach next to nothing. They trained whole models from
nothing; for a few experts on a trained base this is a rule of thumb, no law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PASSES = {"short": 4, "normal": 8, "long": 16}
"""The passes through the text of each plan; "long" is as many as are worth while."""

LEAST = {"short": 30, "normal": 60, "long": 120}
"""The fewest steps of each plan: routers learn for the first time after 30 steps."""

MOST = {"short": 100, "normal": 400, "long": 1500}
"""The most steps of each plan: large texts are not read to the end within them."""

LITTLE, PLENTY = 30, 200
"""Steps: a text that is enough for fewer is little, for more it is plenty."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for where no tokenizer is at hand."""


@dataclass(frozen=True)
class Plan:
    """How long to learn.

    Attributes:
        name: "short", "normal" or "long".
        steps: The number of expert steps.
        passes: The number of times that the training text is read in them.
    """

    name: str
    steps: int
    passes: float


def enough_for(tokens: int, batch_size: int, seq_len: int) -> int:
    """Count the steps after which more passes teach next to nothing, at least 1.

    Args:
        tokens: The tokens of the training text.
        batch_size: The sequences in a batch.
        seq_len: The tokens in a sequence.
    """
    return max(round(PASSES["long"] * tokens / (batch_size * seq_len)), 1)


def amount(steps: int) -> str:
    """Judge a text by the steps that it is enough for: little, enough or plenty."""
    return "little" if steps < LITTLE else "plenty" if steps >= PLENTY else "enough"


def plans(tokens: int, batch_size: int, seq_len: int) -> list[Plan]:
    """Propose a short, a normal and a long training; see `enough_for`."""
    step = batch_size * seq_len
    made = []
    for name, passes in PASSES.items():
        wanted = tidy(passes * tokens / step)
        steps = min(max(wanted, LEAST[name]), MOST[name])
        made.append(Plan(name, steps, steps * step / max(tokens, 1)))
    return made


def tidy(number: float) -> int:
    """Round to a number that people say: 214.6 is 210, 87 is 85, 1,234 is 1,200."""
    if number < 10:
        return max(round(number), 1)
    unit = 10 ** (math.floor(math.log10(number)) - 1)
    unit = unit if number / unit >= 20 else unit / 2
    return int(round(number / unit) * unit)
