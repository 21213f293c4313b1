"""This process computes tasks, and leaves to others what they have claimed.

Any number of processes, on any number of machines, may do so in one folder at once:
`simulate --worker --out FOLDER`. Each takes a task that is neither done nor claimed
(see `claims`); whoever finishes one writes the tables anew, so the last one's have all.
A task that a dead process had begun goes on from its last save.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.environment import environment
from comigs_mlx.messages import Note
from comigs_mlx.simulation.claims import Claim, Claims
from comigs_mlx.simulation.engine import MakeHost
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.participants import Say
from comigs_mlx.simulation.records import Outcome, SimulationEvent
from comigs_mlx.simulation.results_folder import ResultsFolder, task_name

SUMMARY = "this process; others may join in with --worker"

POLL = 0.5
"""The seconds between two looks at what others do, where nothing else is to do."""

Task = tuple[str, int]
"""A method and a seed."""


@dataclass
class Tasks:
    """The methods and seeds of a comparison in a folder, and who has which.

    Attributes:
        folder: The folder of the results.
        left: The methods and seeds that have no outcome yet, in their order.
        measured_on: The environment that the tables name.
        claims: The claims to them.
    """

    folder: ResultsFolder
    left: list[Task]
    measured_on: Mapping[str, Any] = field(default_factory=environment)
    claims: Claims = field(init=False)

    def __post_init__(self) -> None:
        self.claims = Claims(self.folder.path)

    def take(self) -> tuple[Task, Claim] | None:
        """Claim the first task that is to be had; None where others have all."""
        for task in self.left:
            if (claim := self.claims.take(task_name(*task))) is not None:
                return task, claim
        return None


def run(
    experiment: Experiment, tasks: Tasks, say: Say, options: None = None
) -> Iterator[SimulationEvent]:
    """Compute tasks until all have an outcome; yield also those of others."""
    del options  # it has none
    yield from take_turns(experiment, tasks, say)


def take_turns(
    experiment: Experiment, tasks: Tasks, say: Say, elsewhere: MakeHost | None = None
) -> Iterator[SimulationEvent]:
    """Compute one task after the other, until all have an outcome.

    Args:
        experiment: The base and the participants.
        tasks: The tasks that have no outcome yet.
        say: Receives a sentence where this process waits for others.
        elsewhere: Makes the host of participants that live in other processes.

    Raises:
        ComigsError: If a task cannot be computed; others may try it then.
    """
    waits = False
    while tasks.left:
        for task in list(tasks.left):  # what others have done in the meantime
            if (outcome := tasks.folder.outcome(*task)) is not None:
                tasks.left.remove(task)
                yield outcome
        if (taken := tasks.take()) is not None:
            with taken[1]:
                yield from _compute(experiment, tasks, *taken, elsewhere)
        elif tasks.left:
            if not waits:
                names = ", ".join(task_name(*task) for task in tasks.left)
                say(Note(f"waiting for what other workers compute: {names}"))
            waits = True
            time.sleep(POLL)


def _compute(
    experiment: Experiment,
    tasks: Tasks,
    task: Task,
    claim: Claim,
    elsewhere: MakeHost | None,
) -> Iterator[SimulationEvent]:
    """Compute a task, unless another process turns out to have it."""
    if tasks.folder.outcome(*task) is not None:  # done just before it was claimed
        return
    tasks.folder.sweep(*task)
    try:
        for event in experiment.run(*task, claim, elsewhere):
            if isinstance(event, Outcome):
                claim.check()
                tasks.folder.add(event)
                tasks.folder.write_results(tasks.measured_on)
                tasks.left.remove(task)
            yield event
    except Exception:
        # Another process has taken it over, and may have removed what this one needs.
        if not claim.is_lost():
            raise
