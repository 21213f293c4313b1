"""The paper's router: a linear map, the k largest logits, softmax among those.

    z = R x;  S = indices of the k largest z;  w = softmax(z_S)           (k >= 2)
    w = softmax(z) at its argmax                                          (k = 1)

R has no bias and starts as N(0, 0.02^2). For k = 1 the softmax runs over all experts,
as otherwise the weight would be constant and R could not learn (Switch Transformer);
the base takes what is left of 1. Source: Fan et al., arXiv 2409.13931, section 3.

Two options come from other papers, and one is what growing needs:

    entropy         c S_q(p) is added to the loss of a token where routers learn. It
                    makes routing sharper (c > 0). S_q is DynMoLE's normalised Tsallis
                    entropy of p = softmax(z) with q = 1.1 (arXiv 2504.00661). RSL of
                    LoRA-Mixer (arXiv 2507.00029) has Shannon's entropy in its place,
                    with a printed sign that would make routing flatter: give c < 0.
    bias            z = R x + b, a bias of each expert that learns with R; zero at
                    first. A run gets it when it grows: an expert is split in two by
                    ln 2 less for both, whose weights sum to the old one (see `split`).
    soft_training   all experts are mixed while training, k of them at use (stage 2 of
                    LoRA-Mixer). It costs E slots and trains another function than the
                    one that is used.

    python -m comigs_mlx.train --data notes --router-type topk:entropy=0.01
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.config import option
from comigs_mlx.model.routing import (
    Ask,
    Choice,
    largest,
    linear_logits,
    restricted,
    tsallis_entropy,
    with_copy,
)

INIT_STD = 0.02

ROWS = ("weight", "bias")
SPLIT_OPTIONS = {"bias": True}


@dataclass(frozen=True)
class Options:
    """What `topk:entropy=...,soft_training=...` sets."""

    entropy: float = option(0.0, "weight of the entropy penalty; 0 = off", "C")
    soft_training: bool = option(False, "mix all experts while training")
    bias: bool = option(False, "a bias for each expert, as grown runs have")


class Router(nn.Module):
    """Linear top-k router; `weight` is `[E, dims]`, `bias` `[E]`, float32."""

    def __init__(
        self, dims: int, experts: int, key: mx.array, options: Options = Options()
    ):
        super().__init__()
        self.weight = INIT_STD * mx.random.normal((experts, dims), key=key)
        if options.bias:
            self.bias = mx.zeros((experts,))
        self._options = options

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose `ask.k` of the experts `ask.among` for every token.

        Args:
            x: `[..., dims]`, the input of the block's MLP.
            ask: The number of experts, the experts to choose from, and the tilt.
        """
        if ask.training and self._options.soft_training:
            ask = ask._replace(k=len(ask.among))
        choice = largest(self.logits(x, ask), ask)
        if ask.training and self._options.entropy:
            entropy = tsallis_entropy(choice.probabilities)
            choice = choice._replace(penalty=self._options.entropy * entropy)
        return choice

    def logits(self, x: mx.array, ask: Ask) -> mx.array:
        """z of the experts that are asked for, `[..., n]`, without the tilt."""
        logits = linear_logits(self.weight, x, ask)
        return logits + restricted(self.bias, ask) if "bias" in self else logits


def split(rows: Mapping[str, mx.array], expert: int) -> dict[str, mx.array]:
    """Give one expert a copy behind the last one, without a change of the output.

    Both get ln 2 less: exp(z - ln 2) + exp(z - ln 2) = exp(z). So with all experts in
    use (k = E) the two weights sum to the old one, and the others stay.

    Args:
        rows: The parameters of `ROWS`; without a bias it is zero.
        expert: The expert that is copied.
    """
    weight = rows["weight"]
    bias = rows.get("bias", mx.zeros(weight.shape[:1]))
    bias = bias - math.log(2) * (mx.arange(bias.size) == expert)
    return {"weight": with_copy(weight, expert), "bias": with_copy(bias, expert)}
