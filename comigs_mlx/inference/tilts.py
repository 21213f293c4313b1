"""What is added to the routers' logits while a run is used: a tilt, `[layers, E]`.

    z' = z + tilt;   lean X adds X to every specialist's logit, in every block

A lean changes the odds of a specialist against a generalist by the factor e^X in every
block: above 0 it means more of "me", below 0 more of "everyone". Tilts add up. They
reach a model as one input and as nothing else, and their digest is part of what kept
keys and values are found by. Where a single expert speaks there is nothing to tilt.
"""

from __future__ import annotations

import hashlib

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.settings import Rows, Settings
from comigs_mlx.model.mixture import Mixture

Values = npt.NDArray[np.float32]


def lean_rows(mixture: Mixture, lean: float) -> Values:
    """The tilt of a lean: `[layers, E]`, `lean` for specialists and 0 for the rest.

    Raises:
        ConfigError: If all experts are of one kind, so that there is nothing to weigh.
    """
    options = mixture.options
    if lean and not (options.generalists and options.specialists):
        raise ConfigError(
            "a lean weighs specialists against generalists, and the only experts here "
            f"are {', '.join(options.names)}: leave it out"
        )
    specialists = np.arange(options.experts) >= options.generalists
    row = np.where(specialists, np.float32(lean), np.float32(0))
    return np.broadcast_to(row, (len(mixture.sites), options.experts))


def of_settings(mixture: Mixture, settings: Settings) -> mx.array | None:
    """The sum of all tilts that settings ask for, `[layers, E]` float32.

    Args:
        mixture: The mixture that speaks.
        settings: Its `lean` and its `tilt` are used; no lean is 0 here.

    Returns:
        None where the sum is 0 everywhere, so that nothing is added at all.

    Raises:
        ConfigError: If `tilt` has not one number for each expert of each block, or
            there is nothing to lean to.
    """
    return as_array(lean_rows(mixture, settings.lean or 0.0), rows(mixture, settings))


def rows(mixture: Mixture, settings: Settings) -> Values:
    """The numbers of `settings.tilt`, `[layers, E]`; 0 where it is empty.

    Raises:
        ConfigError: If it has not one number for each expert of each block.
    """
    shape = (len(mixture.sites), mixture.options.experts)
    if not settings.tilt:
        return np.zeros(shape, np.float32)
    lengths = {len(row) for row in settings.tilt}
    if (len(settings.tilt), lengths) != (shape[0], {shape[1]}):
        raise ConfigError(
            f"the tilt has {len(settings.tilt)} rows of {sorted(lengths)} numbers: "
            f"expected {shape[0]} rows (blocks) of {shape[1]} (experts)"
        )
    return np.array(settings.tilt, np.float32)


def as_array(*tilts: Values) -> mx.array | None:
    """The sum of tilts `[layers, E]`; None where it is 0 everywhere."""
    total: Values = np.asarray(np.sum(tilts, axis=0), np.float32)
    return mx.array(total) if total.any() else None


def as_input(tilt: Values) -> mx.array:
    """A tilt `[layers, E]` as an input, also where it is 0 everywhere."""
    return mx.array(np.asarray(tilt, np.float32))


def as_rows(values: Values) -> Rows:
    """Numbers `[layers, E]` as plain values, for `Settings.tilt`."""
    return tuple(tuple(float(value) for value in row) for row in values)


def digest(tilt: mx.array | None) -> str:
    """What tells one tilt from another: SHA-256 of its float32 values; "" for none."""
    if tilt is None:
        return ""
    return hashlib.sha256(np.array(tilt, np.float32).tobytes()).hexdigest()
