"""Measures how alike experts are: the cosine of what they add to the base's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from comigs_mlx.federation.formats.tensor_source import Wide
from comigs_mlx.model import params

Pairs = dict[str, tuple[Wide, Wide]]


def pairs_of(values: Mapping[str, mx.array], role: str, index: int) -> Pairs:
    """Return A `[in, r]` and B `[r, out]` of one expert, by linear of the MLPs."""
    pairs: Pairs = {}
    for path, array in values.items():
        if params.role_of(path) == role and array.ndim == 3 and path.endswith("lora_a"):
            b = values[path[:-1] + "b"][index]
            pairs[path] = (_wide(array[index]), _wide(b))
    return {path.replace(role, ""): pair for path, pair in pairs.items()}


def cosines(experts: Sequence[Pairs]) -> list[list[float]]:
    """Compute the cosine of every two experts' A B, all linears together; 0 if one is
    0.

    <A1 B1, A2 B2> = sum((A1^T A2) * (B1 B2^T)), so that no product A B is ever made.
    """
    inner = [[_inner(left, right) for right in experts] for left in experts]
    lengths = [math.sqrt(max(inner[i][i], 0.0)) for i in range(len(experts))]
    return [
        [
            inner[i][j] / (lengths[i] * lengths[j]) if lengths[i] * lengths[j] else 0.0
            for j in range(len(experts))
        ]
        for i in range(len(experts))
    ]


def _inner(left: Pairs, right: Pairs) -> float:
    """Compute the inner product, rounded exactly: the linears' order makes no
    difference.
    """
    parts = []
    for path, (a, b) in left.items():
        c, d = right[path]
        parts.append(float(((a.T @ c) * (b @ d.T)).sum()))
    return math.fsum(parts)


def _wide(array: Any) -> Wide:
    return np.array(array.astype(mx.float32)).astype(np.float64)
