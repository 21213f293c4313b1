"""Runs one method with one seed: participants train in turn, share, receive, measure.

Every participant trains by the same `Trainer` as alone, contributes through the same
exchange, checks and aggregators as in a real federation, and is measured by the same
`Evaluator`. Nothing here knows the name or the meaning of a method, nor where the
participants live: see `host`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from comigs_mlx.federation.formats.round import Round
from comigs_mlx.simulation import attendance, expert_shapes, similarity
from comigs_mlx.simulation.host import Beginning, Host, LocalHost, Trained
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.measuring import Measured
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import ParticipantData, pooled
from comigs_mlx.simulation.records import Outcome, RoundDone, Stepped
from comigs_mlx.simulation.sharing import Sharing
from comigs_mlx.simulation.states import States

SIMILAR = 32
"""The participants, the first ones, whose experts are compared with each other: pairs
grow with the square of their number."""

MakeHost = Callable[[Beginning, Path | None], Host]
"""Makes whoever holds the participants of a method and seed; it may write in a folder
of its own, where there is one."""


class Simulation:
    """One method with one seed.

    Attributes:
        name: The name of the method, for the records.
        method: The method, with the configuration's overrides.
        names: The participants, in the order of their names.
        host: Whoever holds the participants.
        sharing: The federation and how the method uses it; None where nothing is
            shared.
        round: The number of rounds done.
        bytes: The bytes sent and received so far.
        seconds: The time spent so far, without measuring.
        ranks: Maps each participant to the rank of its experts.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        members: Sequence[ParticipantData],
        layouts: Layouts,
        config: SimulateConfig,
        seed: int,
        scratch: Path | None = None,
        resident: float = math.inf,
        elsewhere: MakeHost | None = None,
    ):
        """Make all participants and, if anything is shared, their federation.

        Args:
            name: The name of the method, for the records.
            method: The method as it is registered.
            members: The participants, sorted by name.
            layouts: The base and the mixtures on it.
            config: The options of the simulation.
            seed: The seed of values, texts and attendance.
            scratch: A folder for what has no room in memory; None keeps everything
                there.
            resident: The bytes of participants' states that stay in memory.
            elsewhere: Makes the host of participants that do not live in this process;
                one that has the text of all, or learns nothing, always does.

        Raises:
            ConfigError: If the participants' devices do not fit the method.
        """
        self.name, self.config, self.seed = name, config, seed
        self.method = expert_shapes.with_overrides(name, method, config)
        self.layouts = layouts
        own = [pooled(members)] if method.pooled else list(members)
        shapes = expert_shapes.shapes(name, self.method, own, config)
        common = expert_shapes.common(list(shapes.values()), config.shape)
        start = layouts.fresh_values(common, seed)
        self.beginning = Beginning(
            name,
            self.method,
            seed,
            shapes,
            expert_shapes.generalists(start, common),
        )
        self.names = [data.name for data in own]
        self.ranks = {name: shape.rank for name, shape in shapes.items()}
        self.host: Host
        if elsewhere is None or method.pooled or not method.trained:
            folder = None if scratch is None else scratch / "states"
            parts = (own, members, layouts, config, States(folder, resident))
            self.host = LocalHost(self.beginning, *parts)
        else:
            self.host = elsewhere(self.beginning, scratch)
        self.sharing = self._sharing(own, scratch) if self.method.shared else None
        self.round, self.bytes, self.seconds = 0, 0, 0.0

    def _sharing(self, own: Sequence[ParticipantData], scratch: Path | None) -> Sharing:
        """Make the federation; contributions lie in `scratch`, where there is one."""
        config, layouts = self.config, self.layouts
        shapes = list(self.beginning.shapes.values())
        mixture = layouts.mixture(expert_shapes.common(shapes, config.shape))
        generalists = self.beginning.generalists
        parts = (layouts.fingerprint, layouts.base.id, mixture, generalists)
        manifest = expert_shapes.manifest(*parts, self.method, config, own)
        folder = None if scratch is None else scratch / "contributions"
        federation = LocalFederation.in_folder(manifest, folder)
        federation.begin(generalists)
        steps = config.sharing.local_steps
        return Sharing(federation, self.method, self.host, steps)

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
        left = (self.config, self.seed, self.round)
        return attendance.steps(self.method, self.names, *left)

    def active(self, round: int) -> list[str]:
        """Draw the participants of a round (from 0), by the seed and its number."""
        share = self.config.sharing.participation
        return attendance.active(self.names, share, self.seed, round)

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
        final = self.host.final(SIMILAR)
        experts = {
            f"{who} {expert}": pairs
            for who, by_name in final.pairs.items()
            for expert, pairs in by_name.items()
        }
        return Outcome(
            method=self.name,
            seed=self.seed,
            loss=final.loss,
            tokens=final.tokens,
            speaks=final.speaks,
            trainable=final.trainable,
            bytes_per_round=self.bytes / max(self.rounds, 1),
            seconds=self.seconds,
            similarity={
                "experts": list(experts),
                "cosines": similarity.cosines(list(experts.values())),
            },
            by_selection=final.by_selection,
        )

    def _one_round(self) -> Iterator[Stepped | RoundDone]:
        start, before = time.perf_counter(), self.bytes
        stage, active = self._stage(), self.active(self.round)
        lost = self.lost(self.round)
        sharing = self.sharing if self.method.stages[stage].shared else None
        if sharing is not None:
            sharing.open()
        trained: list[Trained] = []
        arrive = sharing is not None
        for event in self.host.train(self.round, stage, active, arrive):
            if isinstance(event, Stepped):
                yield event
                continue
            if sharing is not None and event.name not in lost:
                assert event.generalists is not None
                sharing.contribute(event.name, event.generalists, event.tokens)
            self.ranks[event.name] = event.rank
            trained.append(dataclasses.replace(event, generalists=None))
        closed: Round | None = None
        if sharing is not None:
            size, closed = sharing.close(len(active))
            self.bytes += size
        self.round += 1
        took = time.perf_counter() - start
        self.seconds += took
        yield self._record(active, lost, trained, self.bytes - before, closed, took)

    def _stage(self) -> int:
        starts = self.method.first_rounds(self.rounds)
        return max(
            i for i, first_round in enumerate(starts[:-1]) if first_round <= self.round
        )

    def _record(
        self,
        active: list[str],
        lost: list[str],
        trained: Sequence[Trained],
        size: int,
        closed: Round | None,
        seconds: float,
    ) -> RoundDone:
        due = self.round % self.config.measuring.eval_every == 0
        measured = due or self.round == self.rounds
        found = self.host.measure() if measured else Measured({}, {})
        reports = {t.name: t.report for t in trained if t.report is not None}
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
            ranks=dict(self.ranks),
            test_loss=found.test_loss,
            layer_share=found.layer_share,
            seconds=seconds,
        )


def _notes(closed: Round) -> list[str]:
    """Describe what happened to single contributions, a sentence each."""
    refused = (f"{name}: refused: {why}" for name, why in closed.refused.items())
    return [*refused, *(closed.notes or ())]
