"""Runs methods with seeds on the same participants: the stream that the command
prints.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

from comigs_mlx import registry
from comigs_mlx.config import configured
from comigs_mlx.simulation import room
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import Say
from comigs_mlx.simulation.records import Planned, SimulationEvent
from comigs_mlx.simulation.results_folder import ResultsFolder
from comigs_mlx.simulation.workers.shared import Tasks


def compare(config: SimulateConfig, say: Say) -> Iterator[SimulationEvent]:
    """Run all methods with all seeds; write results as they come.

    Args:
        config: The methods, seeds and participants to compare; of one that joins in,
            what `ResultsFolder.begun_with` returned.
        say: Receives a sentence before each step that takes time.

    Raises:
        ComigsError: If something does not fit; nothing has been written then.
    """
    chosen = configured("worker", config.backend, always=True)
    worker = registry.load("worker", chosen.name)
    for package in getattr(worker, "NEEDS", ()):
        importlib.import_module(package)
    folder = ResultsFolder(config)
    if not config.worker:
        folder.check()
    experiment = Experiment(config, say)
    experiment.check()
    say(room.check(config, experiment.members, experiment.layouts))
    tasks = Tasks(folder, [])
    with _in_use(folder, config, experiment):
        pairs = [(name, seed) for seed in config.seed_list for name in config.methods]
        before = {pair: folder.outcome(*pair) for pair in pairs}
        tasks.left = [pair for pair in pairs if before[pair] is None]
        yield Planned(sum(experiment.steps_left(*pair) for pair in tasks.left))
        yield from (outcome for outcome in before.values() if outcome is not None)
        if not tasks.left:
            folder.write_results(tasks.measured_on)
            return
        yield from worker.run(experiment, tasks, say, chosen.options)


@contextlib.contextmanager
def _in_use(
    folder: ResultsFolder, config: SimulateConfig, experiment: Experiment
) -> Iterator[None]:
    """Keep other commands out of a folder, or join in with one that is at work."""
    identity = experiment.identity()
    if config.worker:
        folder.check_identity(identity)
        yield
        return
    with folder.in_use(identity):
        yield
