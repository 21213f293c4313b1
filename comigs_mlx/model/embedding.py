"""One vector for a text, from the base model alone.

    e(text) = mean over tokens of the last norm's output

Texts that are alike have vectors of about the same direction. It needs no second model,
and no expert changes it.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.model.mixture import Mixture

Vector = npt.NDArray[np.float32]


def embedded(
    mixture: Mixture, tokens: mx.array, counted: npt.NDArray[np.float32]
) -> Vector:
    """Return the vector of each row.

    Args:
        mixture: The mixture, attached; its experts are left out.
        tokens: The token ids, `[rows, tokens]`.
        counted: The weight of each token, `[rows, tokens]`; no row is all 0.

    Returns:
        `[rows, dims]`.
    """
    with mixture.selected("base"), mixture.tilted(None):
        hidden, _ = mixture.body(tokens)
    weights = mx.array(counted / counted.sum(1, keepdims=True))
    return np.array((hidden.astype(mx.float32) * weights[..., None]).sum(1))
