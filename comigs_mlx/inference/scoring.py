"""A text read token by token: how surprising each is, to whom, and who reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.generation import chunk_tokens
from comigs_mlx.inference.prompts import check_text, encoded, segments
from comigs_mlx.inference.replies import ModelInfo, Progress, Scored, ScoredToken, Watch
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection
from comigs_mlx.training.evaluation import perplexity_of

Losses = list[float]
Weights = list[list[list[float]]]
Read = dict[str, tuple[Losses, Weights]]
"""Selection -> losses `[tokens - 1]` in nats, and weights `[tokens][layers][E]`."""


def encode(base: Base, text: str) -> list[int]:
    """The tokens of a text, without a beginning or an end token.

    Raises:
        ConfigError: If it is no text, or too short or too long to be read at once.
        ModelError: If the model does not know one of its tokens.
    """
    check_text(text, "the text")
    tokens = encoded(base.tokenizer, text)
    if len(tokens) < 2:
        raise ConfigError("the text is too short to be scored: give at least two words")
    if (most := base.context) is not None and len(tokens) > most:
        raise ConfigError(
            f"the text is {len(tokens):,} tokens long, {base.id} reads at most "
            f"{most:,}: give a shorter part of it"
        )
    base.check_tokens(tokens, "the text")
    return tokens


def read(
    mixture: Mixture,
    tokens: Sequence[int],
    selections: Mapping[str, Selection],
    watch: Watch,
) -> Read:
    """Read tokens as one window, as `evaluate` does, once for each selection.

    Args:
        mixture: Attached.
        tokens: At least two.
        selections: Name -> what is selected.
        watch: Told and asked between two chunks of the tokens.

    Raises:
        Stopped: If it was stopped.
    """
    found: dict[Selection, tuple[Losses, Weights]] = {}
    each = list(dict.fromkeys(selections.values()))
    for selection in each:
        step = partial(_step, watch, len(found) * len(tokens), len(each) * len(tokens))
        found[selection] = _read(mixture, tokens, selection, step)
    watch.listen(Progress("scoring", len(each) * len(tokens), len(each) * len(tokens)))
    return {name: found[selection] for name, selection in selections.items()}


def _step(watch: Watch, before: int, total: int, done: int) -> None:
    watch.step("scoring", before + done, total)


def scored(
    base: Base, info: ModelInfo, tokens: Sequence[int], names: Sequence[str], read: Read
) -> Scored:
    """What was read as plain data: losses under `names`, weights of `auto`."""
    losses = {name: read[name][0] for name in names}
    rows = zip(tokens, segments(base.tokenizer, tokens), read["auto"][1], strict=True)
    told = [
        ScoredToken(id, text, weights, _at(losses, position))
        for position, (id, text, weights) in enumerate(rows)
    ]
    means = {name: math.fsum(each) / len(each) for name, each in losses.items()}
    perplexity = {name: perplexity_of(mean) for name, mean in means.items()}
    return Scored(base.id, told, info.experts, info.layers, perplexity)


def _at(losses: Mapping[str, Losses], position: int) -> dict[str, float | None]:
    return {n: each[position - 1] if position else None for n, each in losses.items()}


def _read(
    mixture: Mixture,
    tokens: Sequence[int],
    selection: Selection,
    step: Callable[[int], None],
) -> tuple[Losses, Weights]:
    """In chunks, each with a cache of those before it: so that it can be stopped."""
    from mlx_lm.models.cache import make_prompt_cache

    row, size = mx.array([tokens]), chunk_tokens()
    cache = make_prompt_cache(mixture.model)
    losses: list[mx.array] = []
    weights: list[mx.array] = []
    bulk = mixture.fast_functions()
    with mixture.selected(selection), mixture.frozen(False), bulk:
        for start in range(0, len(tokens), size):
            step(start)
            logits, routing = mixture(row[:, start : start + size], cache=cache)
            targets = row[:, start + 1 : start + size + 1]  # one fewer in the last
            if targets.size:
                logits = logits[:, : targets.shape[1]].astype(mx.float32)
                losses.append(nn.losses.cross_entropy(logits, targets)[0])
            weights.append(routing.weights[:, 0].transpose(1, 0, 2))
            mx.eval(losses, weights)
    read: Any = mx.concatenate(losses).tolist()
    routed: Any = mx.concatenate(weights).tolist()
    return read, routed
