"""A level of the bilevel problem: the roles that it trains, and how a step is made.

    lower level: experts minimise the loss on training text
    upper level: routers minimise the loss on validation text

A step is a pure function of parameters, optimiser state and batches, compiled once for
each shape. It differentiates only what its level trains, so no gradient can reach the
other level. Source: Fan et al., arXiv 2409.13931, algorithm 1. The published code
carries leftover gradients from one level into the other; this code does not.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from comigs_mlx.data.batches import Batch
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.model.routing import Routing
from comigs_mlx.model.selection import Selection
from comigs_mlx.options import TrainingOptions
from comigs_mlx.platform import cpu_streams
from comigs_mlx.training import freezing, optimisers, parallel
from comigs_mlx.training.losses import chosen_tokens, load_balancing, summed_loss

Rate = Callable[[mx.array], mx.array]
"""Maps the number of steps made to the learning rate of the next one, both scalars."""

Penalty = Callable[[Mapping[str, mx.array], Mapping[str, mx.array]], mx.array]
"""Maps the values of a level and of its anchor to nats, added to the mean loss."""


Inputs = dict[str, mx.array]
"""What a compiled step is given of one micro-batch: `tokens` `[B, T + 1]`, `mask`
`[B, T]`, `target` where there is a teacher, and `key` where a router wants
noise: a draw of the global generator would be the same in every compiled step."""


@dataclass(frozen=True)
class Task:
    """The parameters that the lower level trains, and how; the defaults are the
    paper's.

    Attributes:
        roles: The roles whose parameters learn.
        frozen: The last path parts of parameters that do not learn, such as `lora_a`.
        selection: The selection of the experts that speak while training; see
            `Mixture.select`.
        penalty: The function whose value is added to the mean loss.
        teacher: It says what routers should have chosen; see `training.teachers`.
    """

    roles: tuple[str, ...] = params.EXPERTS
    frozen: tuple[str, ...] = ()
    selection: Selection = "auto"
    penalty: Penalty | None = None
    teacher: Any = None

    def trains(self, path: str) -> bool:
        """Tell whether the parameter at `path` learns."""
        return _learns(path, self.roles, self.frozen)


USUAL = Task()

ROUTER_ALONE = Task(roles=())
"""An expert level without roles: with a joint router, only the router learns."""


@dataclass
class Group:
    """Roles that share one optimiser; parameters named in `frozen` do not learn."""

    roles: tuple[str, ...]
    optimizer: optim.Optimizer
    frozen: tuple[str, ...] = ()

    def trains(self, path: str) -> bool:
        """Tell whether the parameter at `path` learns."""
        return _learns(path, self.roles, self.frozen)


def expert_group(
    options: TrainingOptions, task: Task = USUAL, schedule: Rate | None = None
) -> Group:
    """Group the experts with their optimiser.

    Args:
        options: The options with the optimiser, the highest learning rate and the
            number of steps.
        task: The task that says what is trained.
        schedule: The learning rate of each step; None is the one of a run that begins.
    """
    if schedule is None:
        schedule = partial(optimisers.expert_schedule(options), options.learning_rate)
    return Group(task.roles, optimisers.make(options, schedule), task.frozen)


def router_group(options: TrainingOptions) -> Group:
    """Group the routers with their optimiser, at a rate that is constant after a
    warm-up.
    """
    rate = optimisers.router_rate(options)
    return Group(params.ROUTERS, optimisers.make(options, rate))


def _learns(path: str, roles: tuple[str, ...], frozen: tuple[str, ...]) -> bool:
    return params.role_of(path) in roles and path.rsplit(".", 1)[-1] not in frozen


class Stats(NamedTuple):
    """The statistics of a batch, all of them sums, so that batches can be added up.

    Attributes:
        loss: The cross-entropy summed over the counted tokens, in nats.
        tokens: The number of counted tokens.
        share: The expert weights summed over counted tokens, mean over blocks, `[E]`.
    """

    loss: mx.array
    tokens: mx.array
    share: mx.array


Outcome = tuple[Tree, list[Tree], list[mx.array], dict[str, mx.array]]
"""What an update returns: values, optimiser states, the fields of `Stats`, norms."""


@dataclass(frozen=True)
class StepResult:
    """The result of one step of a level, as plain numbers.

    Attributes:
        loss: The mean cross-entropy, in nats per token.
        tokens: The number of tokens that it is the mean of.
        share: The mean weight of each expert.
        norms: Maps a role to the norm of its gradient.
    """

    loss: float
    tokens: int
    share: list[float]
    norms: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether the loss and every gradient is a number."""
        return all(map(math.isfinite, [self.loss, *self.norms.values()]))


class Level:
    """Makes steps that change the parameters of its groups, and nothing else.

    Args:
        mixture: The mixture that holds the parameters, which each step updates in
            place.
        groups: The roles that this level trains, by optimiser.
        options: The options that weigh the losses.
        task: The task: which experts speak, and what is added to the loss.
        ranks: The processes that share each batch.

    Attributes:
        anchor: Path -> value that the penalty compares with; for the user to set.
        trains_routers: Whether routers learn here, and so meet their penalties.
    """

    def __init__(
        self,
        mixture: Mixture,
        groups: Sequence[Group],
        options: TrainingOptions,
        task: Task = USUAL,
        ranks: parallel.Group = parallel.ALONE,
    ):
        self.mixture = mixture
        self.ranks = ranks
        self.groups = list(groups)
        self.options = options
        self.task = task
        self.anchor: dict[str, mx.array] = {}
        self.roles = tuple(role for group in groups for role in group.roles)
        self.trains_routers = not set(params.ROUTERS).isdisjoint(self.roles)
        self.others = tuple(role for role in params.ROLES if role not in self.roles)
        for group in self.groups:
            group.optimizer.init(params.select_by(self.mixture.model, group.trains))
        self._whole_step = mx.compile(self._step)
        self._one_batch = mx.compile(self._gradients)
        self._update = mx.compile(self._apply)
        self._on_all_ranks = ranks.together(
            self._made, parallel.State(self._state, self._set_state)
        )

    def step(
        self, batches: Sequence[Batch], number: int = 0, k: int | None = None
    ) -> StepResult:
        """One update from the token-weighted mean gradient of `batches`.

        If the result is not finite, nothing has been changed.

        Args:
            batches: The micro-batches of the step.
            number: The steps that were made before; with the seed, the level and the
                micro-batch it decides the noise that a router draws.
            k: The slots that a token may use at most, where that grows while training;
                the step is compiled once for each.
        """
        for batch in batches:
            self.mixture.tables.check_tokens(batch.tokens)
        return self._on_all_ranks(list(batches), number, k)

    def _made(self, batches: list[Batch], number: int, k: int | None) -> StepResult:
        """Make a step; from another process batches come as plain tuples."""
        batches = [Batch(*batch) for batch in batches]
        model = self.mixture.model
        trained = params.select_by(model, self.trains)
        others = params.select_by(model, lambda path: not self.trains(path))
        states = [group.optimizer.state for group in self.groups]
        inputs = [self._inputs(b, number, i) for i, b in enumerate(batches)]
        with self.mixture.selected(self.task.selection):
            if len(inputs) == 1:
                given = (trained, others, states, k, inputs[0])
                outcome = self._whole_step(*given, *self._anchor)
            else:
                outcome = self._accumulated(trained, others, states, k, inputs)
        updated, new_states, sums, norms = outcome
        model.update(trained)
        model.update(others)
        with self._evaluating(len(batches[0].tokens)):
            mx.eval(updated, new_states, sums, norms)
        result = _plain(Stats(*sums), norms)
        if result.finite:
            model.update(updated)
        for group, old, new in zip(self.groups, states, new_states, strict=True):
            group.optimizer.state = new if result.finite else old
        return result

    def _evaluating(self, rows: int) -> contextlib.AbstractContextManager[None]:
        """Evaluate what this process computes of a batch of so many rows."""
        own = self.ranks.rows(rows)
        return cpu_streams.evaluating(own.stop - own.start)

    def _state(self) -> dict[str, mx.array]:
        """Return all that a step depends on beside its batches, by name."""
        values = params.flatten(params.select(self.mixture.model, params.ROLES))
        return {**values, **self._optimizers()}

    def _optimizers(self) -> dict[str, mx.array]:
        prefix = "+".join(self.roles)
        return {
            f"{prefix} {index} {path}": array
            for index, group in enumerate(self.groups)
            for path, array in params.flatten(group.optimizer.state).items()
        }

    def _set_state(self, changed: Mapping[str, mx.array]) -> None:
        """Take over what `_state` returned on another process."""
        values = {n: a for n, a in changed.items() if " " not in n}
        self.mixture.model.update(params.unflatten(values))
        states: list[dict[str, mx.array]] = [{} for _ in self.groups]
        for name, array in {**self._optimizers(), **changed}.items():
            if " " in name:
                _, index, path = name.split(" ")
                states[int(index)][path] = array
        for group, state in zip(self.groups, states, strict=True):
            group.optimizer.state = params.unflatten(state)

    def trains(self, path: str) -> bool:
        """Tell whether this level changes the parameter at `path`."""
        return any(group.trains(path) for group in self.groups)

    def _inputs(self, batch: Batch, number: int, index: int) -> Inputs:
        """Make what a compiled step is given of one micro-batch."""
        inputs = {"tokens": mx.array(batch.tokens), "mask": mx.array(batch.mask)}
        if self.mixture.router.noise:
            counters = (self.options.seed, int(self.trains_routers), number, index)
            (seed,) = np.random.SeedSequence(counters).generate_state(1, np.uint64)
            inputs["key"] = mx.random.key(int(seed))
        if self.task.teacher is not None:
            inputs["target"] = mx.array(self.task.teacher.targets(batch))
        return inputs

    @property
    def _anchor(self) -> tuple[dict[str, mx.array], ...]:
        """The anchor as a further input of a step, where a penalty needs it."""
        return (self.anchor,) if self.anchor and self.task.penalty else ()

    def _accumulated(
        self,
        trained: Tree,
        others: Tree,
        states: list[Tree],
        k: int | None,
        batches: Sequence[Inputs],
    ) -> Outcome:
        total: Any = None
        for batch in batches:
            one = self._one_batch(trained, others, k, batch)
            total = one if total is None else tree_map(mx.add, total, one)
            with self._evaluating(len(batch["tokens"])):
                mx.eval(total)
        gradients, stats = total
        return self._update(trained, states, gradients, stats, *self._anchor)

    def _step(
        self,
        trained: Tree,
        others: Tree,
        states: list[Tree],
        k: int | None,
        batch: Inputs,
        *anchor: dict[str, mx.array],
    ) -> Outcome:
        gradients, stats = self._gradients(trained, others, k, batch)
        return self._apply(trained, states, gradients, stats, *anchor)

    def _gradients(
        self, trained: Tree, others: Tree, k: int | None, batch: Inputs
    ) -> tuple[Tree, Stats]:
        """Derive the summed loss with respect to this level's roles only."""
        model = self.mixture.model
        model.update(others)
        differentiate = params.value_and_grad(model, self._objective)
        (_, stats), gradients = differentiate(trained, k, batch)
        return gradients, stats

    def _objective(self, k: int | None, batch: Inputs) -> tuple[mx.array, Stats]:
        """Sum the loss of a batch `[B, T + 1]` over the targets where `mask` is 1.

        Where processes share the batch, this is one's part of the sum.
        """
        experts, whole = self.mixture.options, batch["mask"].shape
        noise = [self._noise(whole, batch["key"])] if "key" in batch else []
        share_of = self.ranks.share_of
        mask = share_of(batch["mask"])
        given = share_of(batch["tokens"]), mask, *map(share_of, noise)
        parts = cpu_streams.each(partial(self._loss, k), *given)
        losses, routings = zip(*parts, strict=True)
        loss = functools.reduce(mx.add, losses)
        routing = Routing.joined(list(routings))
        count = mask.sum()
        share = (routing.weights * mask[..., None]).sum((1, 2)).mean(0)
        stats = Stats(loss, count, share)
        if routing.penalty is not None and self.trains_routers:
            loss = loss + (routing.penalty.mean(0) * mask).sum()
        if (teacher := self.task.teacher) is not None:
            target = share_of(batch["target"], -3)
            apart = teacher.divergence(target, routing.probabilities, mask)
            loss = loss + teacher.weight * (apart.mean(0) * mask).sum()
        uses_all = (k or experts.top_k) == experts.experts
        if uses_all and not self.mixture.router.sparse:
            return loss, stats
        importance = self.options.generalist_importance
        chosen = chosen_tokens(routing, mask)
        chosen, tokens = self.ranks.reduce([chosen, count])
        balance = load_balancing(
            routing, mask, chosen, tokens, experts.generalists, importance
        )
        return loss + self.options.balance_weight * balance * tokens, stats

    def _noise(self, shape: tuple[int, ...], key: mx.array) -> mx.array:
        """`[B, T, layers, E]` uniform numbers for tokens `[B, T]`."""
        mixture = self.mixture
        size = (*shape, len(mixture.sites), mixture.options.experts)
        return mx.random.uniform(shape=size, key=key)

    def _loss(
        self, k: int | None, tokens: mx.array, mask: mx.array, *noise: mx.array
    ) -> tuple[mx.array, Routing]:
        """Sum the cross-entropy of some rows of a batch; return it with their
        routing.
        """
        with self.mixture.training(noise[0] if noise else None, k):
            hidden, routing = self.mixture.body(tokens[:, :-1])
        return summed_loss(self.mixture.head, hidden, tokens[:, 1:], mask), routing

    def _apply(
        self,
        trained: Tree,
        states: list[Tree],
        gradients: Tree,
        stats: Stats,
        *anchor: dict[str, mx.array],
    ) -> Outcome:
        """Update from summed gradients: divide by the tokens, then apply each
        optimiser.
        """
        gradients, sums = self.ranks.reduce([gradients, stats])
        tokens = mx.maximum(sums[1], 1)
        mean = tree_map(lambda g: g / tokens, gradients)
        flat, values = params.flatten(mean), params.flatten(trained)
        if self.task.penalty is not None and anchor:
            slopes = mx.grad(self.task.penalty)(values, *anchor)
            flat = {path: slope + slopes[path] for path, slope in flat.items()}
        updated: dict[str, mx.array] = {}
        new_states = []
        for group, state in zip(self.groups, states, strict=True):
            paths = [path for path in flat if group.trains(path)]
            group.optimizer.state = state
            updated |= params.flatten(
                group.optimizer.apply_gradients(
                    params.unflatten({path: flat[path] for path in paths}),
                    params.unflatten({path: values[path] for path in paths}),
                )
            )
            new_states.append(group.optimizer.state)
        frozen = self.options.frozen_names
        updated = freezing.keep(updated, values, frozen, self.mixture.options)
        return params.unflatten(updated), new_states, sums, params.norms(mean)


def _plain(stats: Stats, norms: dict[str, mx.array]) -> StepResult:
    tokens = _number(stats.tokens)
    count = max(tokens, 1.0)
    return StepResult(
        loss=_number(stats.loss) / count,
        tokens=int(tokens),
        share=[_number(share) / count for share in stats.share],
        norms={role: _number(norm) for role, norm in norms.items()},
    )


def _number(scalar: mx.array) -> float:
    return float(scalar.item())  # type: ignore[arg-type]
