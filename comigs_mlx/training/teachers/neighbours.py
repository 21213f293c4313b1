"""Texts that are alike should be routed alike, as those that are routed well are.

    e_i   the base's vector of window i of a batch, less the batch's mean, of length 1
    r_i   the mean probabilities of a block over the counted tokens of window i
    S     the windows whose loss under the mixture is below that under each expert alone
    W_ij  = exp(-|e_i - e_j|^2 / (2 sigma^2)) over the N nearest j of S, of sum 1
    D_i   = |r_i - sum_j W_ij r_j|^2, in each of the last blocks

Source: RoMA, Li et al., 2025, arXiv 2511.07419, equations 2 to 10, with lambda 0.8,
sigma 0.4, 5 blocks and the 3 nearest. As sum_j W_ij = 1, its sum_j W_ij |r_i - r_j|^2
is this D plus what does not depend on r_i. What differs here: neighbours are those of
the same batch, so that a step depends on nothing but its batch and a resume is exact;
a window takes the place of a labelled sample, the mean over its tokens that of its last
token, and the loss says what is routed well. The vectors need no second model.

A router step costs E + 2 more forward passes. A batch without a window in S teaches
nothing, so larger batches teach more.

    python -m comigs_mlx.train --data notes --batch-size 16 --teach neighbours
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.config import option
from comigs_mlx.data.batches import Batch
from comigs_mlx.model.embedding import Vector, embedded
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.losses import token_losses

Floats = npt.NDArray[np.float32]

FAR = 9.0
"""A squared distance beyond that of any two vectors of length 1."""


@dataclass(frozen=True)
class Options:
    """What `neighbours:weight=...,nearest=...` sets."""

    weight: float = option(0.8, "weight beside the loss", "C")
    nearest: int = option(3, "neighbours of a window", "N")
    sigma: float = option(0.4, "distance at which a neighbour counts 0.6", "S")
    blocks: int = option(5, "last blocks that are taught", "N")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        for name in ("nearest", "sigma", "blocks"):
            if not getattr(self, name) > 0:
                yield f"{name} {getattr(self, name)} must be above 0"


class Teacher:
    """Compares the windows of the batch that a router step learns from."""

    def __init__(self, evaluator: Evaluator, options: Options):
        self._evaluator, self._options = evaluator, options
        self.weight = options.weight

    def targets(self, batch: Batch) -> Floats:
        """Return the shares that a window's tokens should give on average.

        Returns:
            `[layers, B, 1, E]`; all 0 in the first blocks, and where a window has no
            neighbour or predicts nothing.
        """
        counted = np.maximum(batch.mask.sum(1), 1)
        used = batch.mask.sum(1) > 0
        mask = np.where(used[:, None], batch.mask, 1).astype(np.float32)
        tokens = mx.array(batch.tokens)
        self._evaluator.mixture.tables.check_tokens(batch.tokens)
        vectors = embedded(self._evaluator.mixture, tokens[:, :-1], mask)
        losses, means = self._routed(tokens, mask)
        good = used & (losses < self._alone(batch, counted))
        near = neighbours(
            vectors, good, self._options.nearest, self._options.sigma
        ) * used[:, None].astype(np.float32)
        shares = np.einsum("ij,lje->lie", near, means)
        shares[: max(len(shares) - self._options.blocks, 0)] = 0
        return shares[:, :, None]

    def divergence(
        self, target: mx.array, probabilities: mx.array, mask: mx.array
    ) -> mx.array:
        """Return the squared distance of each window's mean, `[layers, B, 1]`."""
        taught = target.sum(-1)
        means = window_means(probabilities, mask)[..., None, :]
        return taught * ((means - target) ** 2).sum(-1)

    def _routed(self, tokens: mx.array, mask: Floats) -> tuple[Floats, Floats]:
        """Let the router choose: the mean loss of each window, `[B]` nats, and its mean
        probabilities, `[layers, B, E]`.
        """
        mixture = self._evaluator.mixture
        with mixture.selected("auto"):
            hidden, routing = mixture.body(tokens[:, :-1])
        losses = token_losses(mixture.head, hidden, tokens[:, 1:])
        counted = mx.array(mask)
        means = window_means(routing.probabilities, counted)
        return np.array((losses * counted).sum(1) / counted.sum(1)), np.array(means)

    def _alone(self, batch: Batch, counted: Floats) -> Floats:
        """The mean loss of each window under the best expert alone, `[B]` nats."""
        experts = self._evaluator.mixture.options.experts
        each = (tuple(map(float, row)) for row in np.eye(experts))
        losses = [
            (self._evaluator.batch_losses(batch, one)[0] * batch.mask).sum(1) / counted
            for one in each
        ]
        least: Floats = np.min(losses, axis=0)
        return least


def window_means(probabilities: mx.array, mask: mx.array) -> mx.array:
    """Return the mean over the counted tokens of each window, `[layers, B, E]`.

    Args:
        probabilities: The probabilities of the experts, `[layers, B, T, E]`.
        mask: 1 for each token that counts, `[B, T]`; a window without any gives 0.
    """
    counted = mx.maximum(mask.sum(-1), 1)[:, None]
    return (probabilities * mask[..., None]).sum(-2) / counted


def neighbours(
    vectors: Vector, good: npt.NDArray[np.bool_], nearest: int, sigma: float
) -> Floats:
    """Return W: how much each window counts for each other, `[windows, windows]`.

    Args:
        vectors: The vectors of the windows, `[windows, dims]`.
        good: The windows that others may follow, `[windows]`.
        nearest: The most neighbours that a window has; it is none of its own.
        sigma: The width of the Gaussian of their distance.

    Returns:
        Rows of sum 1; a row is all 0 where there is no neighbour.
    """
    apart = vectors - vectors.mean(0)
    apart = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-9)
    squares = ((apart[:, None] - apart[None]) ** 2).sum(-1)  # at most 4
    allowed = good[None] & ~np.eye(len(good), dtype=bool)
    squares = np.where(allowed, squares, FAR)
    furthest = np.sort(squares, axis=1)[:, min(nearest, len(good)) - 1, None]
    # Less the least, so that a narrow Gaussian leaves the nearest one its weight.
    closeness = np.exp((squares.min(1, keepdims=True) - squares) / (2 * sigma**2))
    weights = closeness * (allowed & (squares <= furthest))
    shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return shares.astype(np.float32)
