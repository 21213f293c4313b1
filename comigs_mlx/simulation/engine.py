"""Runs one method with one seed: participants train in turn, share, receive, measure.

Every participant trains by the same `Trainer` as alone, contributes through the same
exchange, checks and aggregators as in a real federation, and is measured by the same
`Evaluator`. Nothing here knows the name or the meaning of a method.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from comigs_mlx.federation.formats.round import Round
from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.simulation import attendance, expert_shapes
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.measuring import Measuring
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participant import (
    Participant,
    participant_seed,
)
from comigs_mlx.simulation.participants import ParticipantData, pooled
from comigs_mlx.simulation.records import Outcome, RoundDone, Stepped
from comigs_mlx.simulation.sharing import Sharing
from comigs_mlx.training import trainer_state
from comigs_mlx.training.records import Boundary, Report, Step


class Simulation:
    """One method with one seed.

    Attributes:
        name: The name of the method, for the records.
        method: The method, with the configuration's overrides.
        participants: The participants, in the order of their names.
        sharing: The federation and how the method uses it; None where nothing is
            shared.
        round: The number of rounds done.
        bytes: The bytes sent and received so far.
        seconds: The time spent so far, without measuring.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        members: Sequence[ParticipantData],
        layouts: Layouts,
        config: SimulateConfig,
        seed: int,
    ):
        """Make all participants and, if anything is shared, their federation.

        Raises:
            ConfigError: If the participants' devices do not fit the method.
        """
        self.name, self.config, self.seed = name, config, seed
        self.method = expert_shapes.with_overrides(name, method, config)
        self.layouts = layouts
        own = [pooled(members)] if method.pooled else list(members)
        shapes = expert_shapes.shapes(name, self.method, own, config)
        common = expert_shapes.common(list(shapes.values()), config.shape)
        begin = layouts.fresh_values(common, seed)
        self.participants = [
            self._participant(data, i, shapes[data.name]) for i, data in enumerate(own)
        ]
        beginning = expert_shapes.generalists(begin, common)
        for participant in self.participants:
            participant.receive(beginning)
        self.measuring = Measuring(members, self.participants, layouts, config)
        self.sharing: Sharing | None = None
        if self.method.shared:
            mixture = layouts.mixture(common)
            parts = (layouts.fingerprint, layouts.base.id, mixture, beginning)
            manifest = expert_shapes.manifest(*parts, self.method, config, own)
            federation = LocalFederation(manifest)
            federation.begin(beginning)
            steps = config.sharing.local_steps
            self.sharing = Sharing(
                federation, self.method, self.participants, self.measuring, steps
            )
        self.accumulation = len(members) if method.pooled else 1
        self.round, self.bytes, self.seconds = 0, 0, 0.0

    @property
    def federation(self) -> LocalFederation | None:
        """The federation that they share, if anything is shared."""
        return None if self.sharing is None else self.sharing.federation

    @property
    def rounds(self) -> int:
        """The number of rounds in all."""
        return attendance.rounds(self.method, self.config)

    @property
    def steps_left(self) -> int:
        """The expert steps of all participants still to be made."""
        names = [participant.name for participant in self.participants]
        return attendance.steps(self.method, names, self.config, self.seed, self.round)

    def active(self, round: int) -> list[str]:
        """Draw the participants of a round (from 0), by the seed and its number."""
        share = self.config.sharing.participation
        names = [participant.name for participant in self.participants]
        return attendance.active(names, share, self.seed, round)

    def lost(self, round: int) -> list[str]:
        """Draw the participants whose contribution is lost, with the chance of
        --dropout.
        """
        chance = self.config.sharing.dropout
        return attendance.lost(self.active(round), chance, self.seed, round)

    def run(self) -> Iterator[Stepped | RoundDone]:
        """Yield all rounds left; after a `RoundDone` the simulation can be saved."""
        while self.round < self.rounds:
            yield from self._one_round()

    def outcome(self) -> Outcome:
        """Return the result of the method and seed, after the last round."""
        scores = self.measuring.scores(self.method)
        return Outcome(
            method=self.name,
            seed=self.seed,
            loss={name: score.loss for name, score in scores.items()},
            tokens={name: score.token_count for name, score in scores.items()},
            speaks={
                p.name: str(self.measuring.speaks(p, self.method))
                for p in self.participants
            },
            trainable={p.name: self._trainable(p) for p in self.participants},
            bytes_per_round=self.bytes / max(self.rounds, 1),
            seconds=self.seconds,
            similarity=self.measuring.similarity(),
            by_selection=self.measuring.by_selection(self.method),
        )

    def _trainable(self, participant: Participant) -> int:
        """Count the scalars that learn in any stage."""
        tasks = [stage.task for stage in self.method.stages] * self.method.trained
        routed = self.method.router != "none"
        return sum(
            array.size
            for path, array in params.flatten(participant.values).items()
            if (routed and params.role_of(path) == "router")
            or any(task.trains(path) for task in tasks)
        )

    def _participant(
        self, data: ParticipantData, index: int, shape: ExpertOptions
    ) -> Participant:
        seed = participant_seed(self.seed, index)
        values = self.layouts.fresh_values(shape, seed)
        return Participant(data, shape, seed, values)

    def _one_round(self) -> Iterator[Stepped | RoundDone]:
        start, before = time.perf_counter(), self.bytes
        stage, active = self._stage(), self.active(self.round)
        lost = self.lost(self.round)
        trained: dict[str, int] = {}
        for participant in self.participants:
            if participant.name in active:
                tokens = yield from self._train(participant, stage)
                trained[participant.name] = tokens
        closed: Round | None = None
        if self.sharing is not None and self.method.stages[stage].shared:
            arrived = {n: tokens for n, tokens in trained.items() if n not in lost}
            size, closed = self.sharing.share(arrived, len(active))
            self.bytes += size
        self.round += 1
        took = time.perf_counter() - start
        self.seconds += took
        yield self._record(active, lost, self.bytes - before, closed, took)

    def _stage(self) -> int:
        starts = self.method.first_rounds(self.rounds)
        return max(
            i for i, first_round in enumerate(starts[:-1]) if first_round <= self.round
        )

    def _train(
        self, participant: Participant, index: int
    ) -> Generator[Stepped, None, int]:
        """Train for a round, yielding the steps; return the tokens its experts saw."""
        stage, learning = self.method.stages[index], self.config.learning
        sizes = (learning.seq_len, learning.batch_size)
        supply = participant.supply(*sizes, index, self.method.router_split)
        steps = self.config.sharing.local_steps
        kind = (participant.options, self._training(index), stage.task)
        trainer, begin = self.layouts.trainer(*kind, steps, supply)
        progress = participant.progress.get(index, begin)
        trainer_state.put(trainer, participant.values, progress, supply)
        anchor = params.flatten(participant.values)
        trainer.experts.anchor = anchor if stage.task.penalty else {}
        steps_left, tokens = steps, 0
        for event in trainer.run():
            if isinstance(event, Step):
                tokens += event.tokens * (event.level == "expert")
                name, loss = participant.name, event.loss
                yield Stepped(self.name, name, self.round + 1, event.level, loss)
            elif isinstance(event, Report):
                participant.report = event
            steps_left -= isinstance(event, Boundary)
            if not steps_left:
                break
        participant.values, participant.progress[index] = trainer_state.take(trainer)
        expert_shapes.prune(participant, anchor, self.method.prune)
        return tokens

    def _training(self, index: int) -> TrainingOptions:
        starts = self.method.first_rounds(self.rounds)
        rounds = starts[index + 1] - starts[index]
        steps = rounds * self.config.sharing.local_steps
        return expert_shapes.training(
            self.method, self.config, steps, self.accumulation
        )

    def _record(
        self,
        active: list[str],
        lost: list[str],
        size: int,
        closed: Round | None,
        seconds: float,
    ) -> RoundDone:
        due = self.round % self.config.measuring.eval_every == 0
        measured = due or self.round == self.rounds
        reports = {
            p.name: p.report
            for p in self.participants
            if p.name in active and p.report is not None
        }
        return RoundDone(
            method=self.name,
            seed=self.seed,
            round=self.round,
            active=active,
            lost=lost,
            train_loss={name: r.train_loss for name, r in reports.items()},
            router_loss={name: r.router_loss for name, r in reports.items()},
            expert_share={name: r.expert_share for name, r in reports.items()},
            bytes=size,
            inexactness=None if closed is None else closed.inexactness,
            notes=[] if closed is None else _notes(closed),
            ranks={p.name: p.options.rank for p in self.participants},
            test_loss=self.measuring.losses(self.method) if measured else {},
            layer_share=self.measuring.layer_share(self.method) if measured else {},
            seconds=seconds,
        )


def _notes(closed: Round) -> list[str]:
    """Describe what happened to single contributions, a sentence each."""
    refused = (f"{name}: refused: {why}" for name, why in closed.refused.items())
    return [*refused, *(closed.notes or ())]
