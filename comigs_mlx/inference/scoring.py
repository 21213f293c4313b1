"""A text read token by token: how surprising each is, to whom, and who reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.prompts import segments
from comigs_mlx.inference.spoken import Scored, ScoredToken, Voice
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection
from comigs_mlx.training.evaluation import perplexity_of
from comigs_mlx.training.losses import token_losses

Losses = list[float]
Weights = list[list[list[float]]]
Read = dict[str, tuple[Losses, Weights]]
"""Selection -> losses `[tokens - 1]` in nats, and weights `[tokens][layers][E]`."""


def encode(base: Base, text: str) -> list[int]:
    """The tokens of a text, without a beginning or an end token.

    Raises:
        ConfigError: If it is too short or too long to be read at once.
    """
    tokens = list(base.tokenizer.encode(text, add_special_tokens=False))
    if len(tokens) < 2:
        raise ConfigError("the text is too short to be scored: give at least two words")
    if (most := base.context) is not None and len(tokens) > most:
        raise ConfigError(
            f"the text is {len(tokens):,} tokens long, {base.id} reads at most "
            f"{most:,}: give a shorter part of it"
        )
    return tokens


def read(
    mixture: Mixture, tokens: Sequence[int], selections: Mapping[str, Selection]
) -> Read:
    """Read tokens as one window, as `evaluate` does, once for each selection.

    Args:
        mixture: Attached.
        tokens: At least two.
        selections: Name -> what is selected.
    """
    found = {each: _read(mixture, tokens, each) for each in set(selections.values())}
    return {name: found[each] for name, each in selections.items()}


def scored(
    base: Base, voice: Voice, tokens: Sequence[int], names: Sequence[str], read: Read
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
    return Scored(base.id, told, voice.experts, voice.layers, perplexity)


def _at(losses: Mapping[str, Losses], position: int) -> dict[str, float | None]:
    return {n: each[position - 1] if position else None for n, each in losses.items()}


def _read(
    mixture: Mixture, tokens: Sequence[int], selection: Selection
) -> tuple[Losses, Weights]:
    row = mx.array([tokens])
    with mixture.selected(selection):
        hidden, routing = mixture.body(row)
        losses = token_losses(mixture.head, hidden[:, :-1], row[:, 1:])
        weights = routing.weights[:, 0].transpose(1, 0, 2)
        mx.eval(losses, weights)
    return losses[0].tolist(), weights.tolist()  # type: ignore[return-value]
