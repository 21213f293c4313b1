"""The first adapted block decides for all: must every block decide?

    z = R x at the first adapted block, handed on;  then as `topk` in each block

It has E d parameters in all, where `topk` has E d a block. The idea is Read-ME's
(Cai et al., arXiv 2410.19123), whose router decides for all blocks before the model
runs. That router is a small causal transformer with a cache of its own; a choice here
may depend on the token alone, so that prompts can be read in chunks and from a cache.

    python -m comigs_mlx.train --data notes --router-type once
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.routers.topk import INIT_STD
from comigs_mlx.model.routing import Ask, Choice, largest, restricted

ROWS = ("weight",)


class Router(nn.Module):
    """Every block but the first: it has no parameters."""

    def __init__(self, dims: int, experts: int, key: mx.array):
        super().__init__()
        del dims, experts, key

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose by the first block's logits, `[..., E]`, which are the carry."""
        return largest(restricted(ask.carry[0], ask), ask)._replace(carry=ask.carry)


class FirstRouter(Router):
    """The first adapted block's; `weight` is `[E, dims]` float32."""

    def __init__(self, dims: int, experts: int, key: mx.array):
        super().__init__(dims, experts, key)
        self.weight = INIT_STD * mx.random.normal((experts, dims), key=key)

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """Choose for every token of `x` `[..., dims]`, and hand the logits on."""
        logits = x.astype(mx.float32) @ self.weight.T
        return super().__call__(x, ask._replace(carry=(logits,)))
