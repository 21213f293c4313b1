"""The training loop: expert steps on training text, router phases on validation text.

`Trainer.run` yields plain records of what happens and prints nothing: commands show
them, tests read them. Between two records the trainer is in a state that can be saved
and resumed exactly (`training.checkpoint`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import mlx.core as mx

from comigs_mlx.data.batches import Batch, BatchSource
from comigs_mlx.errors import TrainingError
from comigs_mlx.model import params
from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import SavingOptions, TrainingOptions
from comigs_mlx.training import parallel
from comigs_mlx.training.evaluation import Evaluator, NotFinite
from comigs_mlx.training.level import (
    USUAL,
    Level,
    StepResult,
    Task,
    expert_group,
    router_group,
)
from comigs_mlx.training.optimisers import expert_schedule
from comigs_mlx.training.records import Boundary, Position, Report, Step, Sums
from comigs_mlx.training.teachers import teacher

ADVICE = (
    "the last save is kept: lower --learning-rate (also possible with --resume), or "
    "check the data"
)

PATIENCE = 2
"""The steps in a row without a gradient, in which a group's experts spoke, until the
training is stopped: chance cannot cause so many."""

LEARNED = 1e-3
"""The loss in nats per token below which a gradient may vanish because nothing is
left to learn.
"""


class Trainer:
    """Trains one mixture on one participant's text.

    Args:
        mixture: The mixture that is trained in place.
        train: The batches that the experts learn from.
        router_train: The batches that the routers learn from (validation text).
        valid: The fixed validation batches whose loss chooses the best save.
        options: The options of the bilevel schedule and its optimisers.
        saving: The options that say when to report and to save.
        task: The task: what the experts' level trains, and how.
        ranks: The processes that share each batch, made in the same way on all of them.

    Attributes:
        position: The steps made so far, and the sums since the last report.
        schedule: The experts' learning rate; fixed by the first step.
    """

    def __init__(
        self,
        mixture: Mixture,
        train: BatchSource,
        router_train: BatchSource,
        valid: Sequence[Batch],
        options: TrainingOptions,
        saving: SavingOptions,
        task: Task = USUAL,
        ranks: parallel.Group = parallel.ALONE,
    ):
        self.mixture, self.options, self.saving = mixture, options, saving
        self.train, self.router_train, self.valid = train, router_train, valid
        self.position = Position()
        self.evaluator = Evaluator(mixture, ranks)
        routed = mixture.options.experts > 1
        self.joint = options.router == "joint" and routed
        self.alternating = options.router == "alternating" and routed
        routers = [router_group(options)] * self.joint
        self.schedule = expert_schedule(options)
        groups = [expert_group(options, task, self._rate), *routers]
        self.experts = Level(mixture, groups, options, task, ranks)
        taught = teacher(options.teach, self.evaluator) if options.teach else None
        self.routers = (
            Level(
                mixture, [router_group(options)], options, Task(teacher=taught), ranks
            )
            if self.alternating
            else None
        )
        self._seconds = 0.0
        self._began: dict[str, int] = {}
        self._reached: set[str] = set()
        self._silent: dict[str, int] = {}
        if options.grad_checkpoint:
            recompute_blocks(mixture)

    def _rate(self, step: mx.array) -> mx.array:
        """Return the experts' learning rate, which is looked up when a step is
        compiled.
        """
        return self.schedule(self.options.learning_rate, step)

    @property
    def levels(self) -> list[Level]:
        """The levels that train, experts first."""
        return [self.experts, *([self.routers] if self.routers else [])]

    @property
    def stopped_early(self) -> bool:
        """Whether the validation loss has not got better for too long."""
        patience = self.saving.patience
        return patience > 0 and self.position.stale >= patience

    @property
    def ended(self) -> bool:
        """Whether no expert step is left to make."""
        return self.position.step >= self.options.steps or self.stopped_early

    @property
    def steps_left(self) -> int:
        """Steps of both levels still to be made, as scheduled (see `refresh`)."""
        if self.stopped_early:
            return 0
        options, position = self.options, self.position
        phases = options.steps // options.router_every
        planned = options.steps + (phases * options.router_steps if self.routers else 0)
        scheduled = position.router_step - position.refreshed
        return max(planned - position.step - scheduled, 0)

    def warnings(self) -> Iterator[str]:
        """Yield what a user should know before this training starts."""
        options = self.options
        if self.routers and options.steps < options.router_every:
            yield (
                f"the router will not be trained: --steps {options.steps} is less than "
                f"--router-every {options.router_every}"
            )
        if options.warmup >= options.steps:
            yield (
                f"the learning rate never gets to its full value: --warmup "
                f"{options.warmup} is not below --steps {options.steps}"
            )
        if options.top_k_from >= (last := self.mixture.options.top_k):
            yield (
                f"top-k does not grow: --top-k-from {options.top_k_from} is not below "
                f"--top-k {last}"
            )
        if self.mixture.options.experts == 1:
            yield "one expert only: there is nothing to route"
        if set(self.mixture.options.names) <= set(options.frozen_names):
            yield "all experts are frozen: only the router can learn"
        if self.position.step >= options.steps:
            yield (
                f"the run has its {options.steps} steps already: raise --steps, or "
                "--rounds in a federation"
            )
        elif self.stopped_early:
            yield (
                f"the run has stopped early at step {self.position.step}: raise "
                f"--patience {self.saving.patience} to go on, or set it to 0"
            )

    def run(self) -> Iterator[Step | Report | Boundary]:
        """Train from the current position to the last step.

        Raises:
            TrainingError: If a loss or gradient is not finite, or a group of parameters
                gets no gradient; a step that fails changes no value.
        """
        while not self.ended:
            yield self._expert_step()
            if self.routers and self.position.step % self.options.router_every == 0:
                for _ in range(self.options.router_steps):
                    yield self._router_step()
            yield from self._boundary()

    def refresh(self, steps: int) -> Iterator[Step]:
        """Train the routers alone, between two boundaries, for experts that changed.

        Args:
            steps: The router steps; none are made if no router learns by itself.
        """
        for _ in range(steps if self.routers else 0):
            self.position.refreshed += 1
            yield self._router_step()

    def _boundary(self) -> Iterator[Report | Boundary]:
        step, is_last = self.position.step, self.position.step == self.options.steps
        save = is_last or step % self.saving.save_every == 0
        valid_loss = self._valid_loss() if save else None
        if valid_loss is not None:
            self.position.measured(valid_loss)
        if self.ended or step % self.saving.report_every == 0:
            yield self._report(valid_loss)
        yield Boundary(step, valid_loss)

    def _expert_step(self) -> Step:
        size, position = self.options.grad_accumulation, self.position
        first_batch = position.step * size
        batches = [self.train.batch(first_batch + i) for i in range(size)]
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
        result = level.step(batches, index - 1, self._slots())
        self._seconds += time.perf_counter() - start
        if not result.finite:
            raise TrainingError(
                f"loss or gradient became NaN or infinite in {name} step {index}; "
                f"{ADVICE}"
            )
        self._check_gradients(result, name, index)
        return result

    def _slots(self) -> int | None:
        """Return k of the next step, where it grows from `top_k_from` to top-k.

            k = round(k_min + (k_max - k_min) t / T), t of T expert steps made

        Source: SMoE-Dropout, Chen et al., ICLR 2023.
        """
        if not (first := self.options.top_k_from):
            return None
        last = self.mixture.options.top_k
        share = self.position.step / max(self.options.steps, 1)
        return max(1, min(round(first + (last - first) * share), last))

    def _check_gradients(self, result: StepResult, name: str, index: int) -> None:
        """Check that every group of parameters gets a gradient, or may have none.

        A group may have no gradient in the first step, where B = 0 makes all experts
        equal, so that a router trained jointly cannot tell them apart; where no token
        chose the group's experts (top-k below E, few tokens), by chance; and where
        nothing is left to learn.
        """
        began = self._began.setdefault(name, index)
        if index == 1 or result.loss < LEARNED:
            self._reached |= {role for role, norm in result.norms.items() if norm > 0}
            return
        for role, norm in result.norms.items():
            if norm > 0.0:
                self._reached.add(role)
                self._silent[role] = 0
            elif self._speaks(role, result):
                self._silent[role] = self._silent.get(role, 0) + 1
                if self._silent[role] == PATIENCE:
                    self._explain(role, name, index, began)

    def _explain(self, role: str, name: str, index: int, began: int) -> None:
        """Stop the training where a group has lost its gradient, or never had one."""
        if role in self._reached and role in params.EXPERTS:
            raise TrainingError(
                f"training diverges: in {name} step {index} no gradient is left for "
                f"the {role} parameters, which had one; {ADVICE}"
            )
        if role not in self._reached and began == 1:  # else it was seen before a resume
            raise TrainingError(
                f"no gradient reaches the {role} parameters in {name} step {index}: "
                "they would never be trained"
            )

    def _speaks(self, role: str, result: StepResult) -> bool:
        """Tell whether the experts of a role took part in a step; routers always do."""
        names = self.mixture.options.names
        shares = zip(names, result.share, strict=True)
        role_shares = [
            share for expert, share in shares if expert.split("-")[0] == role
        ]
        return not role_shares or sum(role_shares) > 0.0

    def _valid_loss(self) -> float | None:
        if not self.valid:
            return None
        try:
            return self.evaluator.score(self.valid).loss
        except NotFinite as error:
            raise TrainingError(
                f"validation loss is {error.loss} after expert step "
                f"{self.position.step}; {ADVICE}"
            ) from error

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
        """Count the trainable scalars of each role; the roles cover all of them."""
        return params.counts(self.mixture.model)
