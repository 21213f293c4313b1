"""Methods times seeds on the same participants: the stream that the command prints."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from comigs_mlx.benchmark.environment import environment
from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.content import Content
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import DataError
from comigs_mlx.model.base import load_base
from comigs_mlx.simulation import method, people, saving, shaping
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.folder import ResultsFolder
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.people import Person, Say
from comigs_mlx.simulation.records import Outcome, RoundDone, Stepped


@dataclass(frozen=True)
class Begun:
    """A method and seed begin, or go on.

    Attributes:
        steps: Expert steps of all participants still to be made.
        round: Rounds done before.
    """

    method: str
    seed: int
    steps: int
    round: int


def simulate(
    config: SimulateConfig, say: Say
) -> Iterator[Begun | Stepped | RoundDone | Outcome]:
    """Run all methods with all seeds; write results as they come.

    Args:
        config: What to compare, on whom.
        say: Told in plain sentences what takes time.

    Raises:
        ComigsError: If something does not fit; nothing has been written then.
    """
    folder = ResultsFolder(config)
    folder.check()
    base = load_base(config.model, say)
    persons = people.read(config, base.tokenizer, say)
    layouts, seeds = Layouts(base), config.seed_list
    identity = {"base model": layouts.fingerprint, "text": _digest(persons)}
    for name in config.methods:
        _check(name, method.load(name), persons, config)
    measured_on = environment()
    with folder.in_use(identity):
        for seed in seeds:
            for name in config.methods:
                if (done := folder.outcome(name, seed)) is None:
                    chosen = method.load(name)
                    simulation = Simulation(
                        name, chosen, persons, layouts, config, seed
                    )
                    done = yield from _one(simulation, folder)
                folder.write_results(measured_on)
                yield done


def _one(
    simulation: Simulation, folder: ResultsFolder
) -> Generator[Begun | Stepped | RoundDone, None, Outcome]:
    """One method with one seed, from where it was saved."""
    state = folder.state(simulation.name, simulation.seed)
    if (state / saving.STATE).is_file():
        saving.restore(simulation, state)
    folder.cut_rounds(simulation.name, simulation.seed, simulation.round)
    yield Begun(
        simulation.name, simulation.seed, simulation.steps_left, simulation.round
    )
    for event in simulation.run():
        if isinstance(event, RoundDone):
            folder.add_round(event)
            every = folder.config.measuring.save_every
            if event.round % every == 0 and event.round < simulation.rounds:
                saving.save(simulation, state)
        yield event
    outcome = simulation.outcome()
    folder.add(outcome)
    return outcome


def _check(
    name: str, chosen: Method, persons: Sequence[Person], config: SimulateConfig
) -> None:
    """Refuse what cannot work before anything is written."""
    own = [people.pooled(persons)] if chosen.pooled else persons
    shaping.shapes(name, chosen, own, config)
    learning = config.learning
    sizes = {"seq_len": learning.seq_len, "batch_size": learning.batch_size}
    for person in own:
        for part, content in (("train", person.train), ("valid", person.valid)):
            try:
                training_batches(content, seed=0, packing=False, **sizes)
            except DataError as error:
                raise DataError(f"{person.name}: {part}: {error}") from error


def _digest(persons: Sequence[Person]) -> str:
    digest = hashlib.sha256()
    for person in persons:
        digest.update(person.name.encode())
        for content in (person.train, person.valid, person.test):
            digest.update(_bytes(content))
    return digest.hexdigest()


def _bytes(content: Content) -> bytes:
    if isinstance(content, TokenStream):
        return np.asarray(content.tokens).tobytes()
    return b"".join(sample.tokens.tobytes() for sample in content)
