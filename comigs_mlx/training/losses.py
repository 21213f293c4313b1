"""Losses, in nats."""

from __future__ import annotations

import mlx.core as mx

from comigs_mlx.model.routing import Routing


def token_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """Cross-entropy of each target.

    Args:
        logits: `[batch, tokens, vocabulary]`, any float type.
        targets: `[batch, tokens]` integer.

    Returns:
        `[batch, tokens]` float32, nats.
    """
    logits = logits.astype(mx.float32)
    score = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return mx.logsumexp(logits, axis=-1) - score


def load_balancing(
    routing: Routing, mask: mx.array, generalists: int, importance: float
) -> mx.array:
    """Load-balancing loss: E * sum_e c_e f_e P_e, averaged over the blocks.

    f_e is the share of tokens routed to expert e, P_e its mean probability, c_e is
    `importance` for generalists and 1 for specialists. Source: Fedus et al.,
    arXiv 2101.03961, equation 4; the factor: CoMiGS, arXiv 2409.13931.

    Args:
        routing: Of one forward pass, arrays `[layers, batch, tokens, E]`.
        mask: `[batch, tokens]`, 1 where a token counts.
        generalists: Number of generalists G.
        importance: Factor of experts 0..G-1.

    Returns:
        Float32 scalar.
    """
    experts = routing.weights.shape[-1]
    factor = mx.where(mx.arange(experts) < generalists, importance, 1.0)
    counts = mask.reshape(-1)  # [batch * tokens]
    f = counts @ _by_token(mx.stop_gradient(routing.chosen))  # [layers, E]
    p = counts @ _by_token(routing.probabilities)
    # Divided last: MLX 0.32.4 cannot compile mask / mask.sum() here ("_Map_base::at")
    # when the routing comes out of mx.checkpoint.
    balance = experts * (factor * f * p).sum(-1).mean()
    return balance / mask.sum() / mask.sum()


def _by_token(values: mx.array) -> mx.array:
    """`[layers, batch, tokens, E]` -> `[layers, batch * tokens, E]`."""
    return values.reshape(values.shape[0], -1, values.shape[-1])
