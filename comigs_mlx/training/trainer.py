"""The training loop: expert steps on training text, router phases on validation text.

`Trainer.run` yields what happens as plain records and prints nothing: commands show
them, tests read them. Between two records the trainer is in a state that can be saved
and resumed exactly (`training.checkpoint`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.core as mx

from comigs_mlx.data.batches import Batch, BatchSource
from comigs_mlx.errors import TrainingError
from comigs_mlx.model import params
from comigs_mlx.model.checkpointing import recompute_blocks
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import SavingOptions, TrainingOptions
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.levels import Level, StepResult, expert_group, router_group


@dataclass(frozen=True)
class Step:
    """One step was made.

    Attributes:
        level: `expert` or `router`.
        index: Number of steps of that level so far.
        loss: Nats per token.
        tokens: Tokens it learned from.
    """

    level: str
    index: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class Report:
    """Means since the last report; one line of metrics.jsonl.

    Attributes:
        step: Expert steps so far.
        train_loss: Nats per token over the expert steps.
        router_loss: Nats per token over the router steps; None if there were none.
        valid_loss: Nats per token of the first validation batches, where measured.
        learning_rate: Of the experts, in the last step.
        expert_share: Expert name -> mean weight in the expert steps.
        tokens_per_second: Of both levels, over the time spent in steps.
        peak_memory_gb: Largest memory in use so far, 10^9 bytes.
    """

    step: int
    train_loss: float
    router_loss: float | None
    valid_loss: float | None
    learning_rate: float
    expert_share: dict[str, float]
    tokens_per_second: float
    peak_memory_gb: float


@dataclass(frozen=True)
class Boundary:
    """An expert step, and the router phase if one was due, is complete.

    Only here can the trainer be saved for an exact resume.

    Attributes:
        step: Expert steps so far.
        valid_loss: Given where a save is due; nats per token, the lowest is the best.
    """

    step: int
    valid_loss: float | None


@dataclass
class Sums:
    """Of the steps of one level since the last report."""

    loss: float = 0.0
    tokens: int = 0
    share: list[float] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        """Add one step, weighted by its tokens."""
        shares = [s * result.tokens for s in result.share]
        before = self.share or [0.0] * len(shares)
        self.share = [a + b for a, b in zip(before, shares, strict=True)]
        self.loss += result.loss * result.tokens
        self.tokens += result.tokens

    @property
    def mean_loss(self) -> float | None:
        """Nats per token; None without a step."""
        return self.loss / self.tokens if self.tokens else None


@dataclass
class Position:
    """Where training stands, apart from the arrays."""

    step: int = 0
    router_step: int = 0
    expert_sums: Sums = field(default_factory=Sums)
    router_sums: Sums = field(default_factory=Sums)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Position:
        """The inverse of `to_dict`."""
        sums = ("expert_sums", "router_sums")
        return Position(**{**values, **{name: Sums(**values[name]) for name in sums}})


class Trainer:
    """Trains one mixture on one participant's text.

    Args:
        mixture: Trained in place.
        train: Batches the experts learn from.
        router_train: Batches the routers learn from (validation text).
        valid: Fixed validation batches whose loss chooses the best save.
        options: The bilevel schedule and its optimisers.
        saving: When to report and to save.
    """

    def __init__(
        self,
        mixture: Mixture,
        train: BatchSource,
        router_train: BatchSource,
        valid: Sequence[Batch],
        options: TrainingOptions,
        saving: SavingOptions,
    ):
        self.mixture, self.options, self.saving = mixture, options, saving
        self.train, self.router_train, self.valid = train, router_train, valid
        self.position = Position()
        self.evaluator = Evaluator(mixture)
        routed = mixture.options.experts > 1
        self.joint = options.router == "joint" and routed
        self.alternating = options.router == "alternating" and routed
        groups = [expert_group(options), *([router_group(options)] * self.joint)]
        self.experts = Level(mixture, groups, options)
        self.routers = (
            Level(mixture, [router_group(options)], options)
            if self.alternating
            else None
        )
        self._seconds = 0.0
        self._fresh = {"expert": 0, "router": 0}
        if options.grad_checkpoint:
            recompute_blocks(mixture)

    @property
    def levels(self) -> list[Level]:
        """The levels that train, experts first."""
        return [self.experts, *([self.routers] if self.routers else [])]

    @property
    def steps_left(self) -> int:
        """Steps of both levels still to be made."""
        options, position = self.options, self.position
        phases = options.steps // options.router_every
        planned = options.steps + (phases * options.router_steps if self.routers else 0)
        return max(planned - position.step - position.router_step, 0)

    def warnings(self) -> Iterator[str]:
        """What a user should know before this training starts."""
        options = self.options
        if self.routers and options.steps < options.router_every:
            yield (
                f"the router will not be trained: --steps {options.steps} is less than "
                f"--router-every {options.router_every}"
            )
        if self.mixture.options.experts == 1:
            yield "one expert only: there is nothing to route"
        if self.position.step >= options.steps:
            yield f"the run has its {options.steps} steps already: raise --steps"

    def run(self) -> Iterator[Step | Report | Boundary]:
        """Train from the current position to the last step.

        Raises:
            TrainingError: If a loss or gradient is not finite, or a group of parameters
                gets no gradient; the mixture keeps its last good values.
        """
        while self.position.step < self.options.steps:
            yield self._expert_step()
            if self.routers and self.position.step % self.options.router_every == 0:
                for _ in range(self.options.router_steps):
                    yield self._router_step()
            yield from self._boundary()

    def _boundary(self) -> Iterator[Report | Boundary]:
        step, last = self.position.step, self.position.step == self.options.steps
        save = last or step % self.saving.save_every == 0
        valid_loss = self._valid_loss() if save else None
        if last or step % self.saving.report_every == 0:
            yield self._report(valid_loss)
        yield Boundary(step, valid_loss)

    def _expert_step(self) -> Step:
        size, position = self.options.grad_accumulation, self.position
        first = position.step * size
        batches = [self.train.batch(first + i) for i in range(size)]
        result = self._timed(self.experts, batches, "expert", position.step + 1)
        position.step += 1
        position.expert_sums.add(result)
        return Step("expert", position.step, result.loss, result.tokens)

    def _router_step(self) -> Step:
        assert self.routers is not None
        position = self.position
        batches = [self.router_train.batch(position.router_step)]
        result = self._timed(self.routers, batches, "router", position.router_step + 1)
        position.router_step += 1
        position.router_sums.add(result)
        return Step("router", position.router_step, result.loss, result.tokens)

    def _timed(
        self, level: Level, batches: list[Batch], name: str, index: int
    ) -> StepResult:
        start = time.perf_counter()
        result = level.step(batches)
        self._seconds += time.perf_counter() - start
        if not result.finite:
            raise TrainingError(
                f"loss or gradient became NaN or infinite in {name} step {index}; the "
                "values before that step are kept: lower --learning-rate and start "
                "again, or check the data"
            )
        self._check_gradients(result, name, index)
        return result

    def _check_gradients(self, result: StepResult, name: str, index: int) -> None:
        """At its second step, every group of parameters must get a gradient.

        Not at the first: there B = 0 makes all experts equal, so that a router trained
        jointly rightly gets none.
        """
        self._fresh[name] += 1
        if self._fresh[name] != 2:
            return
        idle = [role for role, norm in result.norms.items() if norm == 0.0]
        if idle:
            raise TrainingError(
                f"no gradient reaches the {', '.join(idle)} parameters in {name} step "
                f"{index}: they would never be trained"
            )

    def _valid_loss(self) -> float:
        return self.evaluator.score(self.valid).loss

    def _report(self, valid_loss: float | None) -> Report:
        position, names = self.position, self.mixture.options.names
        sums = position.expert_sums
        tokens = sums.tokens + position.router_sums.tokens
        report = Report(
            step=position.step,
            train_loss=sums.mean_loss or 0.0,
            router_loss=position.router_sums.mean_loss,
            valid_loss=valid_loss,
            learning_rate=self.experts.groups[0].optimizer.learning_rate.item(),
            expert_share={
                name: share / sums.tokens
                for name, share in zip(names, sums.share, strict=True)
            },
            tokens_per_second=tokens / self._seconds if self._seconds else 0.0,
            peak_memory_gb=mx.get_peak_memory() / 1e9,
        )
        position.expert_sums, position.router_sums = Sums(), Sums()
        self._seconds = 0.0
        return report

    def trainable(self) -> dict[str, int]:
        """Role -> number of trainable scalars; the roles cover every trainable one."""
        return params.counts(self.mixture.model)
