"""Each token should use the experts that predict its successor best.

    l_e:  the loss of a token under expert e alone, for every e
    m_e = 1 where l_e <= min l + margin, else 0;  target = m / sum m
    a token with max l - min l < margin teaches nothing
    D = - sum_e target_e ln p_e, of each block's probabilities p

It is a signal where the loss of the mixture has almost none, as long as the experts'
B is near zero. A router step costs E more forward passes.

Source: DriftMoE, Aspis et al., 2025, where m marks the experts that predict right, and
D is a binary cross-entropy on each logit. Here losses take the place of right and wrong
(a language model is rarely right), and D is the cross-entropy with the softmax that
routers have.

    python -m comigs_mlx.train --data notes --teach losses:weight=0.1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.config import option
from comigs_mlx.data.batches import Batch
from comigs_mlx.training.evaluation import Evaluator

SMALLEST = 1e-9


@dataclass(frozen=True)
class Options:
    """What `losses:weight=...,margin=...` sets."""

    weight: float = option(0.1, "weight beside the loss", "C")
    margin: float = option(0.05, "nats within which losses count as equal", "NATS")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if self.margin < 0:
            yield f"margin {self.margin} must be at least 0"


class Teacher:
    """Measures every expert alone on the batch that a router step learns from."""

    def __init__(self, evaluator: Evaluator, options: Options):
        self._evaluator, self._margin = evaluator, options.margin
        self.weight = options.weight

    def targets(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the shares that each token should give to the experts, `[B, T, E]`."""
        experts = self._evaluator.mixture.options.experts
        losses = np.stack(
            [
                self._evaluator.batch_losses(batch, tuple(map(float, alone)))[0]
                for alone in np.eye(experts)
            ],
            axis=-1,
        )
        return best(losses, self._margin)

    def divergence(
        self, target: mx.array, probabilities: mx.array, mask: mx.array
    ) -> mx.array:
        """Return the cross-entropy of each block's probabilities with the target."""
        del mask
        return -(target * mx.log(probabilities + SMALLEST)).sum(-1)


def best(losses: npt.NDArray[np.floating], margin: float) -> npt.NDArray[np.float32]:
    """Share a token among the experts whose loss is within `margin` of the least.

    Args:
        losses: The loss of each token under each expert alone, `[..., E]` nats.
        margin: The nats within which losses count as equal.

    Returns:
        `[..., E]`; all 0 for a token whose losses all lie within the margin.
    """
    least = losses.min(-1, keepdims=True)
    shares = (losses <= least + margin).astype(np.float32)
    spread = losses.max(-1, keepdims=True) - least
    shares *= (spread >= margin) & (spread > 0)
    return shares / np.maximum(shares.sum(-1, keepdims=True), 1)
