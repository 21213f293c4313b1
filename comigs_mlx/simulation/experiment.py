"""A base and participants on it, on which any method runs with any seed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.content import Content
from comigs_mlx.data.splits import SPLITS
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Note
from comigs_mlx.model.base import Base, load_base
from comigs_mlx.platform import cpu_streams
from comigs_mlx.simulation import (
    attendance,
    checkpoint,
    expert_shapes,
    method,
    participants,
)
from comigs_mlx.simulation.claims import Claim
from comigs_mlx.simulation.engine import MakeHost, Simulation
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import ParticipantData, Say
from comigs_mlx.simulation.records import Begun, RoundDone, SimulationEvent
from comigs_mlx.simulation.results_folder import ResultsFolder
from comigs_mlx.simulation.room import resident
from comigs_mlx.training.fitting import check_texts


class Experiment:
    """A base and the participants on it, read once; any method runs, with any seed."""

    def __init__(self, config: SimulateConfig, say: Say):
        """Read the base and everybody's text.

        Raises:
            ComigsError: If the base or a text cannot be used.
        """
        self.config, self.folder = config, ResultsFolder(config)
        base = load_base(config.model, say)
        self.members = participants.read(config, base.tokenizer, say)
        for note in _check_texts(base, self.members, config.learning.seq_len):
            say(Note(note))
        self.layouts = Layouts(base)

    def check(self) -> None:
        """Refuse what cannot work before anything is written."""
        for name in self.config.methods:
            _check(name, method.load(name), self.members, self.config)

    def identity(self) -> Mapping[str, str]:
        """Return what a resumed comparison must have in common with its beginning."""
        return {"base model": self.layouts.fingerprint, "text": _digest(self.members)}

    def steps_left(self, name: str, seed: int) -> int:
        """Count the expert steps of all participants that a method still has to
        make.
        """
        loaded = method.load(name)
        everybody = [data.name for data in self.members]
        names = [participants.EVERYBODY] if loaded.pooled else everybody
        rounds_done = checkpoint.rounds_done(self.folder.state(name, seed))
        return attendance.steps(loaded, names, self.config, seed, rounds_done)

    def run(
        self, name: str, seed: int, claim: Claim, elsewhere: MakeHost | None = None
    ) -> Iterator[SimulationEvent]:
        """Run one method with one seed, from where it was saved, to its outcome.

        Args:
            name: The name of the method.
            seed: The seed to run it with.
            claim: The claim of this process to the method and seed.
            elsewhere: Makes the host of participants that live in other processes.

        Raises:
            Lost: If another process has taken it over.
        """
        scratch = self.folder.scratch(name, seed, claim.token)
        try:
            with cpu_streams.fixed(self.config.cpu_streams):
                simulation = self._simulation(name, seed, scratch, elsewhere)
                yield from self._run(simulation, claim)
                outcome = simulation.outcome()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # Last: once there is an outcome, nobody looks for what a kill left behind.
        yield outcome

    def _simulation(
        self, name: str, seed: int, scratch: Path, elsewhere: MakeHost | None
    ) -> Simulation:
        """Make a simulation, and put it where it was saved."""
        parts = (self.members, self.layouts, self.config)
        room = (scratch, resident(self.config))
        loaded = method.load(name)
        simulation = Simulation(name, loaded, *parts, seed, *room, elsewhere)
        state = self.folder.state(name, seed)
        if (state / checkpoint.STATE).is_file():
            checkpoint.restore(simulation, state)
        return simulation

    def _run(self, simulation: Simulation, claim: Claim) -> Iterator[SimulationEvent]:
        name, seed, folder = simulation.name, simulation.seed, self.folder
        claim.check()
        folder.cut_rounds(name, seed, simulation.round)
        yield Begun(name, seed, simulation.steps_left, simulation.round)
        for event in simulation.run():
            if isinstance(event, RoundDone):
                claim.check()
                folder.add_round(event)
                every = self.config.measuring.save_every
                if event.round % every == 0 and event.round < simulation.rounds:
                    checkpoint.save(simulation, folder.state(name, seed))
            yield event


def _check_texts(
    base: Base, members: Sequence[ParticipantData], seq_len: int
) -> list[str]:
    """Refuse texts that the base has no tables for; return notes for the user."""
    texts = {
        f"{data.name}: {part}": getattr(data, part)
        for data in members
        for part in SPLITS
    }
    return check_texts(base, texts, seq_len)


def _check(
    name: str,
    method_used: Method,
    members: Sequence[ParticipantData],
    config: SimulateConfig,
) -> None:
    method_used = expert_shapes.with_overrides(name, method_used, config)
    own = [participants.pooled(members)] if method_used.pooled else members
    expert_shapes.shapes(name, method_used, own, config)
    learning = config.learning
    sizes = {"seq_len": learning.seq_len, "batch_size": learning.batch_size}
    for data in own:
        for part, content in (("train", data.train), ("valid", data.valid)):
            try:
                training_batches(content, seed=0, packing=False, **sizes)
            except DataError as error:
                raise DataError(f"{data.name}: {part}: {error}") from error


def _digest(members: Sequence[ParticipantData]) -> str:
    digest = hashlib.sha256()
    for data in members:
        digest.update(data.name.encode())
        for content in (data.train, data.valid, data.test):
            digest.update(_bytes(content))
    return digest.hexdigest()


def _bytes(content: Content) -> bytes:
    if isinstance(content, TokenStream):
        return np.asarray(content.tokens).tobytes()
    return b"".join(sample.tokens.tobytes() for sample in content)
