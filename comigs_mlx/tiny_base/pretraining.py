"""Trains a small base model from nothing: every parameter, one loss, a plain loop.

Nothing of this is needed to train experts; it makes a base to attach them to where no
pretrained one is at hand. AdamW (betas 0.9/0.95, weight decay 0.1), linear warm-up over
the first 20th of the steps, then a cosine to a tenth; gradients clipped to norm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from comigs_mlx.data.batches import Batch, BatchSource
from comigs_mlx.errors import TrainingError
from comigs_mlx.model.tables import Tables, tables_of
from comigs_mlx.platform import cpu_streams
from comigs_mlx.platform.x86.substitutes import fast_functions

LEARNING_RATE = 2e-3
BETAS = [0.9, 0.95]
WEIGHT_DECAY = 0.1
WARM_UP = 20
"""The steps of which one is part of the warm-up."""

CLIP = 1.0
TRIAL_STEPS = 3


class Pretraining:
    """A model, its optimiser and one compiled step over both.

    Args:
        model: The model, all of whose parameters are trained, in place.
        steps: The length of the learning rate's schedule.
        learning_rate: The highest learning rate of the schedule.
    """

    def __init__(
        self, model: nn.Module, steps: int, learning_rate: float = LEARNING_RATE
    ):
        self.model = model
        self.optimizer = optim.AdamW(
            schedule(steps, learning_rate),
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            bias_correction=True,
        )
        self.optimizer.init(model.trainable_parameters())
        self._tables = tables_of(model)
        self._fast_functions = fast_functions(model)
        state = [model.state, self.optimizer.state]
        self._state: Any = state
        self._gradients = nn.value_and_grad(model, self._loss)
        self._compiled: Any = mx.compile(self._step, inputs=state, outputs=state)

    def step(self, batch: Batch) -> float:
        """Make one update.

        Returns:
            The batch's mean loss before the update, in nats per token.

        Raises:
            TrainingError: If the loss is not a number.
            ComigsError: If the model has no row for one of its tokens or positions.
        """
        _check(self._tables, batch)
        with self._fast_functions(), cpu_streams.evaluating(len(batch.tokens)):
            loss = self._compiled(mx.array(batch.tokens))
            mx.eval(loss, self._state)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                "the loss is not a number any more: lower --learning-rate"
            )
        return float(loss.item())

    def _step(self, tokens: mx.array) -> mx.array:
        loss, gradients = self._gradients(tokens)
        gradients, _ = optim.clip_grad_norm(gradients, CLIP)
        self.optimizer.update(self.model, gradients)
        return loss

    def _loss(self, tokens: mx.array) -> mx.array:
        """Return the mean loss over `tokens` `[batch, tokens + 1]`."""
        sums = cpu_streams.each(lambda rows: _losses(self.model, rows).sum(), tokens)
        return sum(sums[1:], sums[0]) / tokens[:, 1:].size


def schedule(steps: int, learning_rate: float) -> Any:
    """Return the learning rate of each step: warm-up, then a cosine to a tenth."""
    warm_up = max(steps // WARM_UP, 1)
    lowest = learning_rate / 10
    return optim.join_schedules(
        [
            optim.linear_schedule(lowest, learning_rate, warm_up),
            optim.cosine_decay(learning_rate, max(steps - warm_up, 1), lowest),
        ],
        [warm_up],
    )


def pretrain(
    model: nn.Module,
    source: BatchSource,
    steps: int,
    learning_rate: float = LEARNING_RATE,
) -> Iterator[float]:
    """Train `model` on the batches 0 to `steps` - 1.

    Yields:
        Each batch's mean loss before its update, nats per token.
    """
    training = Pretraining(model, steps, learning_rate)
    for index in range(steps):
        yield training.step(source.batch(index))


def steps_within(model: nn.Module, source: BatchSource, seconds: float) -> int:
    """Try some steps, and return how many this machine makes in so many seconds.

    The trial changes the model: build a new one afterwards.
    """
    training = Pretraining(model, TRIAL_STEPS)
    training.step(source.batch(0))  # also compiles
    start = time.perf_counter()
    for index in range(TRIAL_STEPS):
        training.step(source.batch(index))
    step_seconds = (time.perf_counter() - start) / TRIAL_STEPS
    return max(round(seconds / step_seconds), 1)


def heldout_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Return the mean loss over all targets that count, in nats per token."""
    total, count, tables = 0.0, 0.0, tables_of(model)
    with fast_functions(model)():
        for batch in batches:
            _check(tables, batch)
            losses = _losses(model, mx.array(batch.tokens))
            total += float((losses * mx.array(batch.mask)).sum())
            count += float(batch.mask.sum())
    return total / count


def _check(tables: Tables, batch: Batch) -> None:
    tables.check_tokens(batch.tokens)
    tables.check_length(batch.tokens.shape[1] - 1, "a window")


def _losses(model: nn.Module, tokens: mx.array) -> mx.array:
    """Return the cross-entropy of every target, `[batch, tokens]`, of `[batch,
    tokens + 1]`.
    """
    logits = model(tokens[:, :-1]).astype(mx.float32)
    return nn.losses.cross_entropy(logits, tokens[:, 1:])
