"""Computes losses, in nats.

Logits are the largest arrays of a step (tokens x vocabulary), so they are made in
chunks of tokens, one after the other, and never all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from comigs_mlx.model.routing import Routing
from comigs_mlx.platform import switch
from comigs_mlx.platform.x86 import exponential

Head = Callable[[mx.array], mx.array]
"""Maps hidden vectors `[1, tokens, dims]` to logits `[1, tokens, vocabulary]`."""

CHUNK = {True: 2**21, False: 2**24}
"""The logits in a chunk, on a CPU (True) and on a GPU. On a CPU the caches are small
and MLX plans ahead by about a hundred operations; a GPU idles on small products."""

FEWEST = 16
"""The fewest tokens in a chunk, however large the vocabulary."""


def token_losses(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """Compute the cross-entropy of each target, to measure; it has no gradient.

    Args:
        head: The function that makes logits.
        hidden: The hidden vectors that the logits are made of, `[batch, tokens, dims]`.
        targets: The token ids to predict, `[batch, tokens]` integer.

    Returns:
        The losses in nats, `[batch, tokens]` float32.
    """
    flat = _flat(hidden)
    losses: list[mx.array] = []
    for rows in _chunks(head, flat):
        part = _after(flat[rows], losses)
        losses.append(_Chunk(head(part[None]), targets.reshape(-1)[rows]).losses)
    return mx.concatenate(losses).reshape(targets.shape)


def summed_loss(
    head: Head, hidden: mx.array, targets: mx.array, mask: mx.array
) -> mx.array:
    """Sum the cross-entropy of the targets that count.

    The gradient with respect to `hidden` is made chunk by chunk in the forward pass:
    softmax - one-hot, through the head. The head's parameters get no gradient.

    Args:
        head: The function that makes logits.
        hidden: The hidden vectors that the logits are made of, `[batch, tokens, dims]`.
        targets: The token ids to predict, `[batch, tokens]` integer.
        mask: The factor of each target's loss, `[batch, tokens]`.

    Returns:
        The sum in nats, a float32 scalar.
    """

    @mx.custom_function
    def loss_and_gradient(
        hidden: mx.array, targets: mx.array, mask: mx.array
    ) -> tuple[mx.array, mx.array]:
        flat = _flat(hidden)
        sums: list[mx.array] = []
        gradients: list[mx.array] = []
        targets, mask = targets.reshape(-1), mask.reshape(-1)
        for rows in _chunks(head, flat):
            part = _after(flat[rows], [*sums[-1:], *gradients[-1:]])
            loss, gradient = _with_gradient(head, part, targets[rows], mask[rows])
            sums.append(loss)
            gradients.append(gradient)
        return mx.stack(sums).sum(), mx.concatenate(gradients).reshape(hidden.shape)

    @loss_and_gradient.vjp
    def gradient(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, mx.array],
        outputs: tuple[mx.array, mx.array],
    ) -> tuple[mx.array, ...]:
        _, targets, mask = primals
        gradient = (cotangents[0] * outputs[1]).astype(primals[0].dtype)
        return gradient, mx.zeros_like(targets), mx.zeros_like(mask)

    loss: mx.array = loss_and_gradient(hidden, targets, mask)[0]  # type: ignore[index]
    return loss


class _Chunk:
    """Softmax of some tokens' logits `[1, tokens, vocabulary]`, and their losses.

    Attributes:
        powers: The powers exp(logit - largest logit), `[tokens, vocabulary]` float32.
        total: The sum of the powers of each token, `[tokens, 1]`.
        losses: The loss of each token in nats, `[tokens]`.
    """

    def __init__(self, logits: mx.array, targets: mx.array):
        exp = exponential.fastest_exp()
        logits = logits.squeeze(0).astype(mx.float32)
        top = logits.max(-1, keepdims=True)
        score = mx.take_along_axis(logits, targets[:, None], axis=-1)
        self.powers = mx.contiguous(exp(logits - top))
        self.total = self.powers.sum(-1, keepdims=True)
        self.losses = (self.total.log() + (top - score)).squeeze(-1)


def _with_gradient(
    head: Head, hidden: mx.array, targets: mx.array, mask: mx.array
) -> tuple[mx.array, mx.array]:
    """Return the summed loss of `[tokens, dims]`, and its gradient."""
    logits = head(hidden[None])
    chunk = _Chunk(logits, targets)
    one_hot = mx.arange(logits.shape[-1]) == targets[:, None]
    factor = mask[:, None]
    slope = chunk.powers * (factor / chunk.total) - mx.where(one_hot, factor, 0.0)
    _, (gradient,) = mx.vjp(head, [hidden[None]], [slope[None].astype(logits.dtype)])
    return (chunk.losses * mask).sum(), gradient.squeeze(0)


def _flat(hidden: mx.array) -> mx.array:
    """Reshape `[batch, tokens, dims]` to `[batch * tokens, dims]`."""
    return hidden.reshape(-1, hidden.shape[-1])


def _chunks(head: Head, flat: mx.array) -> Iterator[slice]:
    """Return slices of about equal length that cover the tokens."""
    tokens = flat.shape[0]
    vocabulary = head(flat[None, :1]).shape[-1]  # lazy: only its shape is known
    most = max(CHUNK[switch.on_cpu()] // vocabulary, FEWEST)
    size = -(-tokens // -(-tokens // most))
    return (slice(at, at + size) for at in range(0, tokens, size))


def _after(array: mx.array, earlier: list[mx.array]) -> mx.array:
    """Return `array`, which MLX may not work on before `earlier` is computed."""
    return mx.depends([array], earlier)[0] if earlier else array


def chosen_tokens(routing: Routing, mask: mx.array) -> mx.array:
    """Count the tokens that each block routes to each expert, `[layers, E]`.

    Args:
        routing: The routing of one forward pass, arrays `[layers, batch, tokens, E]`.
        mask: 1 where a token counts, else 0, `[batch, tokens]`.
    """
    return mask.reshape(-1) @ _by_token(mx.stop_gradient(routing.chosen))


def load_balancing(
    routing: Routing,
    mask: mx.array,
    chosen: mx.array,
    tokens: mx.array,
    generalists: int,
    importance: float,
) -> mx.array:
    """Compute the load-balancing loss: E * sum_e c_e f_e P_e, mean over the blocks.

    f_e is the share of tokens routed to expert e, P_e its mean probability, c_e is
    `importance` for generalists and 1 for specialists. Source: Fedus et al.,
    arXiv 2101.03961, equation 4; the factor: CoMiGS, arXiv 2409.13931.

    It is a sum over the tokens of P once f and the tokens are those of the whole batch:
    so the losses of a batch's parts, and their gradients, add up to the whole one's.

    Args:
        routing: The routing of one forward pass, arrays `[layers, batch, tokens, E]`.
        mask: 1 where a token counts, else 0, `[batch, tokens]`.
        chosen: The `chosen_tokens` of the whole batch, `[layers, E]`.
        tokens: The number of tokens that count, of the whole batch.
        generalists: The number of generalists, G.
        importance: The factor that experts 0 to G-1 count with.

    Returns:
        The loss, or this part's share of it, a float32 scalar.
    """
    experts = routing.weights.shape[-1]
    factor = mx.where(mx.arange(experts) < generalists, importance, 1.0)
    p = mask.reshape(-1) @ _by_token(routing.probabilities)  # [layers, E]
    # Divided last, by the array that the loss is multiplied by: MLX 0.32.4 cannot
    # compile mask / mask.sum() here ("_Map_base::at") when the routing comes out of
    # mx.checkpoint, and no further mask.sum().
    balance = experts * (factor * chosen * p).sum(-1).mean()
    return balance / tokens / tokens


def _by_token(values: mx.array) -> mx.array:
    """Reshape `[layers, batch, tokens, E]` to `[layers, batch * tokens, E]`."""
    return values.reshape(values.shape[0], -1, values.shape[-1])
