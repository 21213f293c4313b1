"""Steering by a text: more of the experts that are busy on it, in the middle blocks.

    d_e = (mean of w_e on the text - mean of w_e on generic text) / deviation of w_e
    tilt_e = strength where d_e > tau, else 0

w_e is the router's weight of expert e in one block, 0 where it is not chosen. Source:
Bandarkar et al., "Multilingual Routing in Mixture-of-Experts", ICLR 2026, arXiv
2510.04694: experts of a topic are those that are active more often on it than on
generic text, and only middle blocks are steered, as routing in the others has to follow
the language. What differs here:

    weights     instead of frequencies: with k = E every expert is always active; in
                deviations, as weights near 1/2 differ by hundredths.
    absolute    The paper adds lambda times the deviation of a token's own logits. With
                two experts that can flip no choice below lambda = 2, so the tilt has
                an absolute size.

    python -m comigs_mlx.generate --run runs/notes --prompt "Dear" --steer letters.txt
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from comigs_mlx.data.reading import read_utf8
from comigs_mlx.inference import tilts, windows
from comigs_mlx.inference.settings import Settings
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture

TAU = 0.2
"""The deviations above which an expert counts as busier: a small effect, after Cohen.

A difference must be twice its own standard error, too, which matters for short texts.
"""


class Activity(NamedTuple):
    """How busy each expert of each block is on some text.

    Attributes:
        mean: The mean weight over tokens, `[layers, E]`.
        deviation: The standard deviation of the weight over tokens, `[layers, E]`.
        tokens: The number of tokens.
    """

    mean: tilts.Values
    deviation: tilts.Values
    tokens: int


def activity(
    mixture: Mixture, texts: Sequence[mx.array], step: windows.Step = windows.nothing
) -> Activity:
    """Read windows with the router as it is, and see whom it chooses.

    Args:
        mixture: The mixture, attached; its selection and tilt do not matter.
        texts: The windows `[1, tokens]`, at least one.
        step: Is called with the number of windows read and of all; may raise.
    """
    total, squares, tokens = 0.0, 0.0, 0
    with mixture.selected("auto"), mixture.tilted(None):
        for window in windows.watched(texts, step):
            _, routing = mixture.body(window)
            weights = np.array(routing.weights[:, 0], np.float64)  # [layers, tokens, E]
            total = total + weights.sum(1)
            squares = squares + (weights**2).sum(1)
            tokens += weights.shape[1]
    mean = np.asarray(total) / tokens
    variance = np.maximum(np.asarray(squares) / tokens - mean**2, 0)
    return Activity(
        mean.astype(np.float32), np.sqrt(variance).astype(np.float32), tokens
    )


def busier(text: Activity, generic: Activity) -> tilts.Values:
    """1 where an expert is clearly busier on a text than on generic text, else 0.

    Returns:
        `[layers, E]`.
    """
    deviation = np.sqrt((text.deviation**2 + generic.deviation**2) / 2)
    difference = text.mean - generic.mean
    error = math.sqrt(1 / text.tokens + 1 / generic.tokens)
    # Weights that are the same for every token differ by rounding alone.
    return (difference > np.maximum(max(TAU, 2 * error) * deviation, 1e-4)).astype(
        np.float32
    )


def middle(layers: int) -> slice:
    """The middle half of the blocks; of a model with few of them, all but the ends."""
    edge = layers // 4
    return slice(edge, layers - edge)


def rows(
    mixture: Mixture, text: Activity, generic: Activity, strength: float
) -> tilts.Values:
    """The tilt `[layers, E]` that steers by a text; 0 outside of the middle blocks."""
    chosen = busier(text, generic)
    steered = np.zeros_like(chosen)
    part = middle(len(mixture.sites))
    steered[part] = np.float32(strength) * chosen[part]
    return steered


def steered(
    settings: Settings,
    base: Base,
    mixture: Mixture,
    text: str,
    strength: float,
    what: str = "the text",
    say: Say = quiet,
    step: windows.Step = windows.nothing,
) -> Settings:
    """Settings that steer by a text, besides what they tilt already.

    Args:
        settings: The settings that were asked for.
        base: The model of the mixture, and its tokenizer.
        mixture: The mixture, attached.
        text: Its beginning is read.
        strength: The number that is added to the logits of the experts that are busy
            on the text.
        what: The name that sentences give to the text, such as "letters.txt".
        say: Receives a sentence on who is steered to.
        step: Is called with the number of windows read and of all; may raise.

    Raises:
        ConfigError: If the text is too short to tell anything from.
    """
    own, other = windows.of_text(base, text, what), windows.generic(base)
    found = activity(mixture, [*own], step), activity(mixture, other, step)
    tilt = rows(mixture, *found, strength)
    say(Note(_told(mixture, tilt, what, strength)))
    return dataclasses.replace(
        settings, tilt=tilts.as_rows(tilts.rows(mixture, settings) + tilt)
    )


def _told(mixture: Mixture, tilt: tilts.Values, what: str, strength: float) -> str:
    if not tilt.any():
        return f"no expert is busier on {what} than on other text, so it steers nothing"
    blocks = (tilt != 0).sum(0)
    named = zip(mixture.options.names, blocks.tolist(), strict=True)
    counts = [f"the {name} in {count} blocks" for name, count in named if count]
    return f"steering by {what}: {strength:+g} for {', '.join(counts)}"


def read(file: str) -> str:
    """The text to steer by.

    Raises:
        DataError: If the file cannot be read, or is no text in UTF-8.
    """
    return read_utf8(Path(file).expanduser())
