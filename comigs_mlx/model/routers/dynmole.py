"""As many experts as a token is uncertain about, by the entropy of its distribution.

    p = softmax(R x), sorted in descending order; c its cumulative sum
    a token keeps the experts with c <= top_p, the first `keep` in any case, and all k
    where S(p) > threshold;  w = p among those, divided by their sum
    entropy * S(p) is added to the loss of a token where routers learn

S is the Tsallis entropy with q = 1.1, divided by its maximum: sure tokens commit to few
experts, unsure ones mix all. k (--top-k) is the most that are kept. With two experts
and keep=1 the threshold 0.9 lies at a larger probability of 0.679.

Source: Li et al., DynMoLE, arXiv 2504.00661, and the authors' code, whose rule leaves
out the expert that crosses top_p. Different here: weights are divided by their sum,
since an expert is the whole MLP and the base would be scaled otherwise; `keep` is 1 for
two experts, where the paper's 2 would keep both always; the balance is the one that all
routers have (--balance-weight).

    python -m comigs_mlx.train --data notes --specialists 3 --top-k 4 --router-type \\
        dynmole:top_p=0.75,keep=2
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.config import option
from comigs_mlx.model.routing import (
    Ask,
    Choice,
    largest_slots,
    linear_logits,
    tilted,
    tsallis_entropy,
)

SPARSE, RESTS = True, False

ROWS = ("weight",)


@dataclass(frozen=True)
class Options:
    """What `dynmole:top_p=...` and so on sets."""

    top_p: float = option(0.75, "probability that the kept experts may reach", "P")
    keep: int = option(0, "experts kept in any case; 0: 1 of two, else 2", "N")
    threshold: float = option(0.9, "entropy (0 to 1) from which all are kept", "S")
    entropy: float = option(0.01, "weight of the entropy penalty", "C")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not 0 <= self.top_p <= 1:
            yield f"top_p {self.top_p} must be from 0 to 1"
        if self.keep < 0:
            yield f"keep {self.keep} must be at least 0"


class Router(nn.Module):
    """`weight` is `[E, dims]` float32, uniform like the authors'."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options = Options()
    ):
        super().__init__()
        bound = 1 / math.sqrt(dims)  # kaiming-uniform with a = sqrt(5)
        self.weight = mx.random.uniform(-bound, bound, (experts, dims), key=key)
        self._options = options

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose at most `ask.k` experts for every token of `x` `[..., dims]`."""
        options, n = self._options, len(ask.among)
        p = mx.softmax(tilted(linear_logits(self.weight, x, ask), ask), axis=-1)
        slots = largest_slots(p, ask.k)
        order = mx.argsort(-mx.take_along_axis(mx.stop_gradient(p), slots, axis=-1))
        slots = mx.take_along_axis(slots, order, axis=-1)
        sorted_p = mx.take_along_axis(p, slots, axis=-1)
        entropy = tsallis_entropy(p)
        first = options.keep or min(2, n - 1)
        kept = (
            (mx.cumsum(sorted_p, axis=-1) <= options.top_p)
            | (mx.arange(ask.k) < max(first, 1))
            | (entropy[..., None] > options.threshold)
        )
        weights = sorted_p * mx.stop_gradient(kept)
        weights = weights / weights.sum(-1, keepdims=True)
        penalty = options.entropy * entropy if ask.training else None
        return Choice(weights, slots, ask.among, p, normalised=True, penalty=penalty)
