"""Sums of low-rank products, in the smaller of two forms: factors, or the product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from comigs_mlx.federation.formats.tensor_source import Wide

BLOCK = 256
"""Columns of factors that are multiplied at once."""


class LowRankSum:
    """sum_i a_i @ b_i, of products that are added one by one.

    The factors are kept side by side until they are larger than the product would be,
    from then on the product: memory never grows beyond one product [in, out] and 256
    columns of factors, however many are added.
    """

    def __init__(self) -> None:
        self._left: list[Wide] = []
        self._right: list[Wide] = []
        self._product: Wide | None = None
        self._gathered = self._added = 0

    def add(self, a: Wide, b: Wide) -> None:
        """Add a [in, k] @ b [k, out]."""
        self._left.append(a)
        self._right.append(b)
        self._gathered += a.shape[1]
        self._added += a.shape[1]
        rows, columns = len(a), b.shape[1]
        large = self._gathered * (rows + columns) >= rows * columns
        if self._gathered >= BLOCK and (large or self._product is not None):
            self._multiply()

    def norm(self) -> float:
        """Frobenius norm of the sum."""
        if self._product is None:
            return norm(self._left, self._right)
        return float(np.linalg.norm(self._multiply()))

    def svd(self) -> tuple[Wide, Wide, Wide]:
        """U [in, k], singular values [k] falling and above rounding level, V [k, out].

        Of factors it is that of their small core: with [a_1 ... a_n] = Q R and
        [b_1; ...; b_n] = S^T P^T, the sum is Q (R S^T) P^T. Signs are settled: the
        largest entry of each row of V is positive.
        """
        if self._product is None:
            q, r = np.linalg.qr(np.hstack(self._left))
            p, s = np.linalg.qr(np.vstack(self._right).T)
            u, values, v = np.linalg.svd(r @ s.T, full_matrices=False)
            u, v = q @ u, v @ p.T
        else:
            u, values, v = np.linalg.svd(self._multiply(), full_matrices=False)
        size = max(len(u), v.shape[1], self._added)
        rounding = np.finfo(np.float64).eps * size
        kept = int((values > rounding * values.max(initial=0.0)).sum())
        u, v = u[:, :kept], v[:kept]
        largest = np.abs(v).argmax(axis=1)[:, None]
        signs = np.sign(np.take_along_axis(v, largest, axis=1))
        return u * signs.T, values[:kept], v * signs

    def _multiply(self) -> Wide:
        """The sum as a product, which from now on is what is kept."""
        if self._left:
            part = np.hstack(self._left) @ np.vstack(self._right)
            if self._product is None:
                self._product = part
            else:
                self._product += part
            self._left, self._right, self._gathered = [], [], 0
        assert self._product is not None
        return self._product


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
