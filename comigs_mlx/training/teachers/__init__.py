"""Teachers, one a file: what a router should have chosen, beside the loss it lowers.

A file holds

    class Options         what `--teach NAME:key=value` sets: a frozen dataclass of
                          `config.option` fields, with a field `weight`
    class Teacher         Teacher(evaluator, options)
        targets(batch)        float32 numpy that broadcasts to `[layers, batch, tokens,
                              E]`, with every row of the batch: what each token, or a
                              window's tokens on average, should use, in shares; all 0
                              where nothing is taught
        divergence(target, probabilities, mask)
                              what broadcasts to `[layers, batch, tokens]`, from the
                              targets, `[layers, batch, tokens, E]`, and `[batch,
                              tokens]`, 1 for each token that counts; 0 where nothing
                              is taught

Routers' steps add weight * the mean divergence over counted tokens and blocks to their
loss. Targets are made before the step, from validation text, and no gradient goes
through them.
"""

from __future__ import annotations

from typing import Any

from comigs_mlx import registry
from comigs_mlx.config import configured
from comigs_mlx.training.evaluation import Evaluator


def teacher(text: str, evaluator: Evaluator) -> Any:
    """Make the teacher called `NAME` or `NAME:key=value,key=value`.

    Args:
        text: The value of `--teach`.
        evaluator: It measures the mixture whose routers are taught.

    Raises:
        ConfigError: If there is no such teacher, or it has no such options.
    """
    chosen = configured("teacher", text, always=True)
    return registry.load("teacher", chosen.name).Teacher(evaluator, chosen.options)
