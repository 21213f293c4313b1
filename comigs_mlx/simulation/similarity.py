"""How alike experts are: the cosine of what they add to the base's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.model import params

Wide = npt.NDArray[np.float64]
Pairs = dict[str, tuple[Wide, Wide]]


def pairs_of(values: Mapping[str, mx.array], role: str, index: int) -> Pairs:
    """Linear -> (A `[in, r]`, B `[r, out]`) of one expert; attention left out."""
    found: Pairs = {}
    for path, array in values.items():
        if params.role_of(path) == role and array.ndim == 3 and path.endswith("lora_a"):
            b = values[path[:-1] + "b"][index]
            found[path] = (_wide(array[index]), _wide(b))
    return {path.replace(role, ""): pair for path, pair in found.items()}


def cosines(experts: Sequence[Pairs]) -> list[list[float]]:
    """Cosine of every two experts' A B, all linears together; 0 where one is 0.

    <A1 B1, A2 B2> = sum((A1^T A2) * (B1 B2^T)), so that no product is ever made.
    """
    inner = [[_inner(one, other) for other in experts] for one in experts]
    lengths = [math.sqrt(max(inner[i][i], 0.0)) for i in range(len(experts))]
    return [
        [
            inner[i][j] / (lengths[i] * lengths[j]) if lengths[i] * lengths[j] else 0.0
            for j in range(len(experts))
        ]
        for i in range(len(experts))
    ]


def _inner(one: Pairs, other: Pairs) -> float:
    """Exactly rounded, so that the order of the linears makes no difference."""
    parts = []
    for path, (a, b) in one.items():
        c, d = other[path]
        parts.append(float(((a.T @ c) * (b @ d.T)).sum()))
    return math.fsum(parts)


def _wide(array: Any) -> Wide:
    return np.array(array.astype(mx.float32)).astype(np.float64)
