"""The optimisers of both levels, by mlx-lm's names, and the learning rate of a step.

All are MLX's own. Two of them look at a whole parameter at once, where ours are stacks
of experts, `[experts, in, r]`: `Adafactor` and `Muon` here look at each expert's matrix
by itself, so that an expert learns the same whatever experts are beside it. Weight
decay is decoupled in all that have it: w <- (1 - rate decay) w, then the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from comigs_mlx.options import TrainingOptions

BETAS = [0.9, 0.95]

LOWEST = 0.1
"""The share of the learning rate at which a schedule ends."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The quintic's coefficients that Muon's author chose; MLX uses the same."""


def make(options: TrainingOptions, rate: Any) -> optim.Optimizer:
    """Make the optimiser that the options name.

    Args:
        options: The options with its name and the weight decay.
        rate: The learning rate: a number, or a function of the steps made.
    """
    decay = options.weight_decay
    makers: dict[str, Callable[[], optim.Optimizer]] = {
        "adamw": lambda: optim.AdamW(
            rate, betas=BETAS, weight_decay=decay, bias_correction=True
        ),
        "adam": lambda: optim.Adam(rate, betas=BETAS, bias_correction=True),
        # Without momentum, SGD's L2 penalty is decoupled decay.
        "sgd": lambda: optim.SGD(rate, weight_decay=decay),
        "adafactor": lambda: Adafactor(rate, decay),
        "muon": lambda: Muon(rate, decay),
    }
    return makers[options.optimizer]()


class Adafactor(optim.Adafactor):
    """Adafactor for stacks of matrices, at the learning rate that it is given.

    MLX's default takes a rate of its own and scales it by the parameter's size, which
    is 0 for a fresh B. The options here are those that its users set for a rate of
    their own. Source: Shazeer and Stern, arXiv 1804.04235, algorithm 4, each matrix
    clipped by itself.
    """

    def __init__(self, rate: Any, weight_decay: float):
        super().__init__(
            rate,
            weight_decay=weight_decay,
            scale_parameter=False,
            relative_step=False,
        )

    def _compute_rms(self, inputs: mx.array) -> mx.array:
        """Return the root mean square of each matrix, `[..., 1, 1]`."""
        axes = (-2, -1) if inputs.ndim > 2 else None
        return mx.sqrt(mx.mean(mx.square(inputs), axis=axes, keepdims=axes is not None))


class Muon(optim.Muon):
    """Muon for stacks of matrices, with decoupled weight decay.

    MLX's flattens a stack to one matrix `[experts, in * r]`, which would make experts
    orthogonal to each other, and puts the decay into the gradient, where a parameter
    without a gradient would get a full step of nothing but decay. Source: Jordan et
    al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, rate: Any, weight_decay: float):
        super().__init__(rate, weight_decay=0.0)
        self.decay = weight_decay

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]
    ) -> mx.array:
        """Return the new value of a parameter, and set its momentum in `state`."""
        rate = self.learning_rate.astype(gradient.dtype)
        old, new = self.momentum, 1 - self.momentum
        state["v"] = v = old * state["v"] + new * gradient
        update = new * gradient + old * v  # Nesterov's
        if update.ndim >= 2:
            rows, columns = update.shape[-2:]
            update = orthogonal(update, self.ns_steps)
            update = max(1, rows / columns) ** 0.5 * update
        return parameter * (1 - rate * self.decay) - rate * update


def orthogonal(stack: mx.array, steps: int) -> mx.array:
    """Bring the singular values of each matrix `[..., m, n]` near 1.

    Each of the Newton-Schulz steps is x <- a x + (b y + c y y) x with y = x x^T.

    Args:
        stack: The matrices; one that is 0 stays 0.
        steps: The number of steps; 5 bring all values into [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[-2] > stack.shape[-1]
    x = mx.swapaxes(stack, -1, -2) if tall else stack
    norm = mx.sqrt(mx.square(x).sum((-2, -1), keepdims=True))
    x = x / (norm + 1e-7)
    for _ in range(steps):
        y = x @ mx.swapaxes(x, -1, -2)
        x = a * x + (b * y + c * (y @ y)) @ x
    return mx.swapaxes(x, -1, -2) if tall else x


@dataclass(frozen=True)
class Schedule:
    """The learning rate of the steps of a level: it rises, and then falls to `LOWEST`.

    Over the first `warmup` steps it rises in equal parts, so that step number i, from
    1, has i / (warmup + 1) of it.

    Attributes:
        last: The step at which the lowest rate is reached.
        first: The step after which it begins to fall; later than 0 where a run was
            resumed with another number of steps.
        share: The share of the learning rate at which it begins.
        kind: The form of its fall: `cosine` (half of one), `linear`, or `constant`,
            which does not fall.
        warmup: The number of steps over which it rises at first.
    """

    last: int
    first: int = 0
    share: float = 1.0
    kind: str = "cosine"
    warmup: int = 0

    @property
    def _start(self) -> int:
        """The step after which the rate falls."""
        return max(self.first, self.warmup)

    def at(self, step: int) -> float:
        """Return the share of the learning rate for the step after number `step`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        steps = max(self.last - self._start, 1)
        progress = min(max(step - self._start, 0) / steps, 1.0)
        left = {
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.kind]
        lowest = self.share if self.kind == "constant" else LOWEST
        return lowest + (self.share - lowest) * left

    def going_on(self, step: int, last: int) -> Schedule:
        """Return the schedule to another end, which goes on from this one after
        `step`.
        """
        if last == self.last:
            return self
        if step <= self.warmup:
            return replace(self, last=last)
        return replace(self, last=last, first=step, share=self.at(step))

    def anew(self, step: int, last: int) -> Schedule:
        """Return the schedule that begins to fall, from all of the rate, after
        `step`.
        """
        first = step if step > self.warmup else 0
        return replace(self, last=last, first=first, share=1.0)

    def __call__(self, rate: float, step: mx.array) -> mx.array:
        """Return the learning rate of the step after number `step`, a scalar."""
        start, highest = self._start, rate * self.share
        steps = max(self.last - start, 1)
        # Steps are unsigned: a difference below 0 would be a very large number.
        since = mx.maximum(step, start) - start if start else step
        if self.kind == "cosine":
            scheduled = optim.cosine_decay(highest, steps, rate / 10)(since)
        elif self.kind == "linear":
            scheduled = optim.linear_schedule(highest, rate / 10, steps)(since)
        else:
            scheduled = mx.array(highest, mx.float32)
        if self.warmup:
            rising = (step + 1) * (rate / (self.warmup + 1))
            scheduled = mx.where(step < self.warmup, rising, scheduled)
        result: mx.array = scheduled
        return result


def expert_schedule(options: TrainingOptions) -> Schedule:
    """Return the experts' schedule of a run that begins."""
    return Schedule(options.steps, kind=options.lr_schedule, warmup=options.warmup)


def router_rate(options: TrainingOptions) -> Any:
    """Return the routers' learning rate: constant, after the warm-up of their steps."""
    if not options.warmup:
        return options.learning_rate
    schedule = Schedule(options.steps, kind="constant", warmup=options.warmup)
    return lambda step: schedule(options.learning_rate, step)
