"""One set of weights for all tokens: the null model for routing token by token.

    z = a, a parameter of each block, [E];  then as `topk`

a starts at 0, so that the largest k experts begin with equal weights, and learns on
validation text as every router does. If `topk` is no better than this, routing token by
token does not help. Since the weights do not depend on the token, the experts can be
merged into one plain adapter.

Source: task-level routing of Poly and MHR, Caccia et al., arXiv 2211.03831, where each
task t has such a vector Z_t. Here a participant is the task, and softmax takes the
place of sigmoid and division by the sum.

    python -m comigs_mlx.train --data notes --router-type static
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.routing import Ask, Choice, largest, restricted, with_copy

ROWS = ("logits",)


class Router(nn.Module):
    """Reads no token; `logits` is `[E]` float32."""

    def __init__(self, dims: int, experts: int, key: mx.array):
        super().__init__()
        del dims, key
        self.logits = mx.zeros((experts,))

    def __call__(self, x: mx.array, ask: Ask) -> Choice:
        """The same choice for every token of `x` `[..., dims]`."""
        logits = restricted(self.logits, ask)
        return largest(mx.broadcast_to(logits, (*x.shape[:-1], logits.size)), ask)


def split(rows: Mapping[str, mx.array], expert: int) -> dict[str, mx.array]:
    """Give one expert a copy behind the last one: both logits are ln 2 lower."""
    logits = rows["logits"]
    lower = logits - math.log(2) * (mx.arange(logits.size) == expert)
    return {"logits": with_copy(lower, expert)}
