"""Sums of low-rank products, kept as factors; the full product is never held."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.federation.sources import Wide

BLOCK = 256
"""Columns of factors gathered before they are folded."""


class LowRankSum:
    """sum_i a_i @ b_i as one pair of factors, folded so that its rank stays bounded.

    Folding loses nothing: with U = [a_1 ... a_n] = Q R and V = [b_1; ...; b_n] = S^T
    P^T, the sum is Q (R S^T) P^T, and of the small core in the middle only singular
    values at rounding level are dropped. Memory is that of min(in, out) + 256 columns,
    however many products are added.
    """

    def __init__(self) -> None:
        self._left: list[Wide] = []
        self._right: list[Wide] = []
        self._columns = self._folded = 0

    def add(self, a: Wide, b: Wide) -> None:
        """Add a [in, k] @ b [k, out]."""
        self._left.append(a)
        self._right.append(b)
        self._columns += a.shape[1]
        if self._columns - self._folded >= BLOCK:
            left, values, right = self.svd()
            self._left, self._right = [left * values], [right]
            self._columns = self._folded = len(values)

    def svd(self) -> tuple[Wide, Wide, Wide]:
        """U [in, k], singular values [k] falling and above rounding level, V [k, out].

        Signs are settled: the largest entry of each row of V is positive.
        """
        q, r = np.linalg.qr(np.hstack(self._left))
        p, s = np.linalg.qr(np.vstack(self._right).T)
        u, values, v = np.linalg.svd(r @ s.T, full_matrices=False)
        rounding = np.finfo(np.float64).eps * max(len(q), len(p))
        kept = int((values > rounding * values.max(initial=0.0)).sum())
        left, right = q @ u[:, :kept], v[:kept] @ p.T
        largest = np.abs(right).argmax(axis=1)[:, None]
        signs = np.sign(np.take_along_axis(right, largest, axis=1))
        return left * signs.T, values[:kept], right * signs


def norm(left: Sequence[Wide], right: Sequence[Wide]) -> float:
    """Frobenius norm of sum_i left_i [in, k_i] @ right_i [k_i, out].

    By Gram matrices, ||U V||^2 = <U^T U, V V^T>, where they are the smaller ones, else
    by the product in pieces of a few columns.
    """
    u, v = np.hstack(left), np.vstack(right)
    (rows, rank), columns = u.shape, v.shape[1]
    if rank * (rows + columns) < rows * columns:
        return math.sqrt(max(float(((u.T @ u) * (v @ v.T)).sum()), 0.0))
    pieces = range(0, columns, BLOCK)
    return math.sqrt(
        math.fsum(float(np.square(u @ v[:, i : i + BLOCK]).sum()) for i in pieces)
    )
