"""The paper's router: a linear map, the k largest logits, softmax among those.

    z = R x;  S = indices of the k largest z;  w = softmax(z_S)           (k >= 2)
    w = softmax(z) at its argmax                                          (k = 1)

R has no bias and starts as N(0, 0.02^2). For k = 1 the softmax runs over all experts,
as otherwise the weight would be constant and R could not learn (Switch Transformer).
Source: Fan et al., arXiv 2409.13931, section 3; DESIGN: the method, exactly.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.routing import Choice

INIT_STD = 0.02


class Router(nn.Module):
    """Linear top-k router; `weight` is `[E, dims]` float32."""

    def __init__(self, dims: int, experts: int, key: mx.array):
        super().__init__()
        self.weight = INIT_STD * mx.random.normal((experts, dims), key=key)

    def __call__(self, x: mx.array, k: int, among: tuple[int, ...]) -> Choice:
        """Choose k of the experts `among` for every token.

        Args:
            x: The input of the block's MLP, `[..., dims]`.
            k: The number of experts that a token uses, at most `len(among)`.
            among: The experts to choose from, ascending.
        """
        weight = self.weight
        if len(among) < weight.shape[0]:
            weight = weight[mx.array(among)]
        logits = x.astype(mx.float32) @ weight.T  # [..., n]
        probabilities = mx.softmax(logits, axis=-1)
        if k == len(among):
            return Choice(probabilities, None, among, probabilities, normalised=True)
        fixed = mx.stop_gradient(logits)  # which experts are chosen has no gradient
        slots = mx.argpartition(-fixed, k - 1, axis=-1)[..., :k]
        scores = probabilities if k == 1 else logits
        weights = mx.take_along_axis(scores, slots, axis=-1)
        if k > 1:
            weights = mx.softmax(weights, axis=-1)
        return Choice(weights, slots, among, probabilities, normalised=k > 1)
