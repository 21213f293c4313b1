"""`topk`, with expert dropout: while training, some rows use one expert alone.

    a row (a sequence of a batch) draws u, uniform on (0, 1)
    u < q:   all its tokens use expert floor(u E / q), in all blocks
    u >= q:  as `topk`

A generalist is published as an adapter of its own and both kinds can be selected alone,
yet `topk` trains experts inside the mixture only. A row that uses one expert trains it
for that, and teaches the router nothing. At use this is `topk`, with the same
parameters; nothing is drawn then.

Source: THOR, Zuo et al., ICLR 2022, where every batch draws one expert a block. Here
only a share q of the rows draws, and one expert for all blocks, since a selection
speaks in all blocks, too. THOR's second pass, whose predictions must agree with the
first one's, is left out: it doubles the time of a step.

    python -m comigs_mlx.train --data notes --router-type stochastic:share=0.25
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from comigs_mlx.config import option
from comigs_mlx.model.routers import topk
from comigs_mlx.model.routing import Ask, Choice, largest

NOISE = True

ROWS, SPLIT_OPTIONS, split = topk.ROWS, topk.SPLIT_OPTIONS, topk.split

CERTAIN = 1e4
"""Added to a logit so that softmax gives exactly 1 for it and 0 for the others."""


@dataclass(frozen=True)
class Options:
    """What `stochastic:share=...` sets."""

    share: float = option(0.25, "share of rows that use one expert in training", "Q")
    bias: bool = option(False, "a bias for each expert, as grown runs have")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not 0 <= self.share <= 1:
            yield f"share {self.share} must be from 0 to 1"


class Router(topk.Router):
    """`topk`'s parameters: `weight` is `[E, dims]`, `bias` `[E]`, float32."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options | None = None
    ):
        options = options or Options()
        super().__init__(dims, experts, key, topk.Options(bias=options.bias))
        self._share = options.share

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose for `x` `[batch, tokens, dims]`; the draw is in `carry`."""
        logits = self.logits(x, ask)
        if not ask.training or ask.noise is None:
            return largest(logits, ask)
        # One value a row, which all blocks share: `[batch, 1, 1]`.
        drawn = ask.carry[0] if ask.carry else ask.noise[..., :1, :1]
        expert = mx.floor(drawn / max(self._share, 1e-9) * len(ask.among))
        alone = (drawn < self._share) & (mx.arange(len(ask.among)) == expert)
        choice = largest(mx.where(alone, logits + CERTAIN, logits), ask)
        usual = largest(logits, ask).probabilities
        return choice._replace(probabilities=usual, carry=(drawn,))
