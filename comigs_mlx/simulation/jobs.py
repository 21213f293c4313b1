"""Runs methods and seeds side by side, in processes with cores of their own.

A step of a small model is many small operations one after the other, which a second
core hardly shortens; two processes on a core each make twice as many.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from comigs_mlx.errors import ComigsError, RunError
from comigs_mlx.platform import cpu
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.records import Outcome, SimulationEvent

PATIENCE = 1.0
"""The seconds without an event after which the processes are checked to be alive."""


def run(
    config: SimulateConfig, pairs: Sequence[tuple[str, int]], count: int
) -> Iterator[SimulationEvent]:
    """Yield the events of all methods and seeds, as they come; see `Experiment.run`.

    Args:
        config: The configuration, as for one process.
        pairs: The method and seed of each run.
        count: The number of processes; no more than there are pairs.

    Raises:
        ComigsError: If one of them raised it; the others are ended then.
        RunError: If one of them died.
    """
    context: Any = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    for task in [*pairs, *[None] * count]:
        tasks.put(task)
    workers = [
        context.Process(target=_work, args=(config, tasks, events, own), daemon=True)
        for own in shares(_cores(), count)
    ]
    try:
        for worker in workers:
            worker.start()
        unfinished = len(pairs)
        while unfinished:
            event = _next(events, workers)
            unfinished -= isinstance(event, Outcome)
            yield event
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Divide the cores among `count` processes; processes share cores if there are
    fewer.
    """
    around = max(len(cores), 1)
    return [list(cores[i % around :: count]) for i in range(count)]


def _cores() -> list[int]:
    """List the cores that a process can be bound to; none if the system cannot bind."""
    is_offered = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0)) if is_offered else []


def _next(events: Any, workers: Sequence[Any]) -> SimulationEvent:
    while True:
        try:
            event: SimulationEvent | ComigsError = events.get(timeout=PATIENCE)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise RunError(_death(dead[0].exitcode)) from None
            continue
        if isinstance(event, ComigsError):
            raise event
        return event


def _death(status: int) -> str:
    """Explain in one line why a process is gone, and what to do."""
    reason = cpu.crash(status)
    if reason is None:
        reason = f"exit code {status}, maybe for want of memory"
    return f"one of the --jobs ended ({reason}): go on with --resume and fewer --jobs"


def _work(config: SimulateConfig, tasks: Any, events: Any, cores: list[int]) -> None:
    """Run one pair after the other in this process until there is none left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)
        cpu.blas_threads(len(cores))
    try:
        experiment = Experiment(config, lambda note: None)
        while (pair := tasks.get()) is not None:
            for event in experiment.run(*pair):
                events.put(event)
    except ComigsError as error:
        events.put(error)


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
