"""Runs methods with seeds on the same participants: the stream that the command
prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from comigs_mlx.environment import environment
from comigs_mlx.simulation import jobs
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import Say
from comigs_mlx.simulation.records import Outcome, Planned, SimulationEvent
from comigs_mlx.simulation.results_folder import ResultsFolder


def compare(config: SimulateConfig, say: Say) -> Iterator[SimulationEvent]:
    """Run all methods with all seeds; write results as they come.

    Args:
        config: The methods, seeds and participants to compare.
        say: Receives a sentence before each step that takes time.

    Raises:
        ComigsError: If something does not fit; nothing has been written then.
    """
    folder = ResultsFolder(config)
    folder.check()
    experiment = Experiment(config, say)
    experiment.check()
    measured_on = environment()
    with folder.in_use(experiment.identity()):
        pairs = [(name, seed) for seed in config.seed_list for name in config.methods]
        before = {pair: folder.outcome(*pair) for pair in pairs}
        remaining = [pair for pair in pairs if before[pair] is None]
        yield Planned(sum(experiment.steps_left(*pair) for pair in remaining))
        yield from (outcome for outcome in before.values() if outcome is not None)
        if not remaining:
            folder.write_results(measured_on)
        count = min(config.jobs, len(remaining))
        one_process = count < 2
        events = (
            experiment.run_all(remaining)
            if one_process
            else jobs.run(config, remaining, count)
        )
        for event in events:
            if isinstance(event, Outcome):
                folder.add(event)
                folder.write_results(measured_on)
            yield event
