"""Where participants live: they train and are measured there, and nothing else is.

The engine asks a host for what a round needs, in the order of the participants' names,
and keeps the federation to itself. `LocalHost` is this process; other processes and
machines hold a part of the participants each in a `LocalHost` of their own (see
`workers.ray`), and give the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from comigs_mlx.errors import RunError, reading
from comigs_mlx.federation.aggregation.personal import Loss
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.participant.mixing import (
    as_loss,
    in_memory,
    valid_scores,
)
from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.simulation import attendance, expert_shapes
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.measuring import Final, Measured, Measuring
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participant import Participant, participant_seed
from comigs_mlx.simulation.participants import ParticipantData
from comigs_mlx.simulation.records import Stepped
from comigs_mlx.simulation.states import States
from comigs_mlx.training import trainer_state
from comigs_mlx.training.records import Boundary, Position, Report, Step

FILES = "participants"
"""The folder of a save that holds a file for each participant."""

ADVICE = "remove its folder to begin this method and seed again"
"""What to do about a save that cannot be read."""


@dataclass(frozen=True)
class Trained:
    """What a participant's round of training gives.

    Attributes:
        name: The name of the participant.
        tokens: The tokens that its experts saw.
        rank: The rank that its experts have now.
        report: The report of its training, if there ever was one.
        generalists: Its generalists, where they are to be shared.
    """

    name: str
    tokens: int
    rank: int
    report: Report | None
    generalists: dict[str, Array] | None


@dataclass(frozen=True)
class Beginning:
    """What all participants of a method and seed begin with.

    Attributes:
        name: The name of the method, for the records.
        method: The method, with the configuration's overrides.
        seed: The seed that those of the participants are drawn from.
        shapes: Maps each participant to the shape of its experts, in their order.
        generalists: The generalists that everybody begins with.
    """

    name: str
    method: Method
    seed: int
    shapes: Mapping[str, ExpertOptions]
    generalists: Mapping[str, Array]


class Host(Protocol):
    """Holds participants; what it tells of them is in the order of their names."""

    def train(
        self, round: int, stage: int, names: Sequence[str], shared: bool
    ) -> Iterator[Stepped | Trained]:
        """Let participants train for a round, yielding steps, and what each gave.

        Args:
            round: The number of the round, from 0.
            stage: The stage of the method that the round belongs to.
            names: The participants, in their order.
            shared: Whether their generalists are to be shared.
        """

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Let every participant receive these generalists."""

    def mix(self, sources: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let every participant receive its own combination of contributions."""

    def measure(self) -> Measured:
        """Measure every participant on its test text, in the midst of the rounds."""

    def final(self, similar: int) -> Final:
        """Measure everything that an outcome tells.

        Args:
            similar: The participants, the first ones, whose experts are given too.
        """

    def save(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Write every participant's state into a folder; return what else it knows."""

    def restore(
        self,
        folder: Path,
        stored: Mapping[str, Mapping[str, Any]],
        generalists: Mapping[str, Array] | None,
    ) -> None:
        """Put every participant where it was saved.

        Args:
            folder: The folder that `save` wrote into.
            stored: The facts that `save` returned.
            generalists: The generalists that the participants received last; None where
                they have those that they began with.
        """


class LocalHost:
    """Participants of one method and seed, in this process.

    Attributes:
        participants: The participants that live here, in their order.
        measuring: The measuring of them.
    """

    def __init__(
        self,
        beginning: Beginning,
        own: Sequence[ParticipantData],
        members: Sequence[ParticipantData],
        layouts: Layouts,
        config: SimulateConfig,
        states: States | None = None,
    ):
        """Make the participants.

        Args:
            beginning: The beginning of all participants, also of those elsewhere.
            own: The text and the devices of those that live here.
            members: Those whose test text is measured here: `own`, or everybody where
                one participant has the text of all.
            layouts: The base and the mixtures on it.
            config: The options of the simulation.
            states: The place of the participants' arrays; None keeps all in memory.
        """
        self.beginning, self.method = beginning, beginning.method
        self.layouts, self.config = layouts, config
        self.states = states or States()
        places = {name: i for i, name in enumerate(beginning.shapes)}
        self.participants = [self._participant(d, places[d.name]) for d in own]
        self.measuring = Measuring(members, self.participants, layouts, config)
        self.accumulation = len(members) if self.method.pooled else 1
        self._by_name = {p.name: p for p in self.participants}
        self.receive(beginning.generalists)

    def _participant(self, data: ParticipantData, index: int) -> Participant:
        seed = participant_seed(self.beginning.seed, index)
        shape = self.beginning.shapes[data.name]
        return Participant(
            data,
            shape,
            seed,
            lambda: self.layouts.fresh_values(shape, seed),
            self.states,
        )

    def train(
        self, round: int, stage: int, names: Sequence[str], shared: bool
    ) -> Iterator[Stepped | Trained]:
        """Train one participant after the other."""
        for name in names:
            participant = self._by_name[name]
            tokens = yield from self._train(participant, round, stage)
            own = participant.generalists() if shared else None
            rank, report = participant.options.rank, participant.report
            yield Trained(name, tokens, rank, report, own)

    def _train(
        self, participant: Participant, round: int, index: int
    ) -> Generator[Stepped, None, int]:
        """Train for a round, yielding the steps; return the tokens its experts saw."""
        stage, learning = self.method.stages[index], self.config.learning
        sizes = (learning.seq_len, learning.batch_size)
        supply = participant.supply(*sizes, index, self.method.router_split)
        steps = self.config.sharing.local_steps
        kind = (participant.options, self._training(index), stage.task)
        trainer, begin = self.layouts.trainer(*kind, steps, supply)
        progress = participant.progress.get(index, begin)
        before = participant.values
        trainer_state.put(trainer, before, progress, supply)
        anchor = params.flatten(before)
        trainer.experts.anchor = anchor if stage.task.penalty else {}
        steps_left, tokens = steps, 0
        for event in trainer.run():
            if isinstance(event, Step):
                tokens += event.tokens * (event.level == "expert")
                where = (self.beginning.name, participant.name, round + 1)
                yield Stepped(*where, event.level, event.loss)
            elif isinstance(event, Report):
                participant.report = event
            steps_left -= isinstance(event, Boundary)
            if not steps_left:
                break
        values, progress = trainer_state.take(trainer)
        participant.learnt(values, index, progress)
        expert_shapes.prune(participant, anchor, self.method.prune)
        return tokens

    def _training(self, index: int) -> TrainingOptions:
        starts = self.method.first_rounds(attendance.rounds(self.method, self.config))
        rounds = starts[index + 1] - starts[index]
        steps = rounds * self.config.sharing.local_steps
        return expert_shapes.training(
            self.method, self.config, steps, self.accumulation
        )

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Let every participant receive these generalists, when it needs them."""
        for participant in self.participants:
            participant.receive(tensors)

    def mix(self, sources: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let every participant receive its own combination of the contributions."""
        personal, start = self.method.personal, Arrays("", current)
        assert personal is not None
        read = in_memory(sources)  # every participant reads all of them
        for participant in self.participants:
            participant.mix(personal(read, start, self.loss(participant)))

    def loss(self, participant: Participant) -> Loss:
        """Return the function by which a participant judges generalists: its loss."""
        evaluator = self.layouts.evaluator(participant.options)
        batches = self.measuring.valid(participant)
        judged = (evaluator, batches, self.method.speaks[0])
        return as_loss(valid_scores(*judged, participant.with_generalists))

    def measure(self) -> Measured:
        """Measure every participant on its test text."""
        return self.measuring.measured(self.method)

    def final(self, similar: int) -> Final:
        """Measure everything that an outcome tells."""
        first = set(list(self.beginning.shapes)[:similar])
        return self.measuring.final(self.method, first)

    def save(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Write every participant's state into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return {p.name: self._save(p, folder) for p in self.participants}

    def _save(self, participant: Participant, folder: Path) -> dict[str, Any]:
        file = folder / f"{participant.name}.safetensors"
        return {
            "rank": participant.options.rank,
            "positions": {
                str(stage): position.to_dict()
                for stage, position in participant.positions.items()
            },
            "report": participant.report and dataclasses.asdict(participant.report),
            "file": self.states.export(participant.name, file),
            "receives": participant.received is not None,
        }

    def restore(
        self,
        folder: Path,
        stored: Mapping[str, Mapping[str, Any]],
        generalists: Mapping[str, Array] | None,
    ) -> None:
        """Put every participant where it was saved.

        Raises:
            RunError: If a file cannot be read.
        """
        for participant in self.participants:
            file = folder / f"{participant.name}.safetensors"
            with reading(file, RunError, ADVICE):
                self._restore(participant, stored[participant.name], file)
            if participant.received is not None and generalists is not None:
                participant.receive(generalists)

    def _restore(
        self, participant: Participant, stored: Mapping[str, Any], file: Path
    ) -> None:
        if stored["rank"] != participant.options.rank:
            participant.take_rank(stored["rank"])
        if stored.get("file", True):  # earlier versions wrote all of them
            self.states.adopt(participant.name, file)
        for stage, position in stored["positions"].items():
            participant.positions[int(stage)] = Position.from_dict(position)
        report = stored["report"]
        participant.report = None if report is None else Report(**report)
        if not stored.get("receives", False):
            participant.received = None
