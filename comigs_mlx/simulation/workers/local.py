"""Processes of this machine, side by side, with cores of their own.

A step of a small model is many small operations one after the other, which a second
core hardly shortens; two processes on a core each make twice as many. Each process is
one of `shared`: it takes the tasks that no other one has.
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
from comigs_mlx.messages import quiet
from comigs_mlx.platform import cpu
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import Say
from comigs_mlx.simulation.records import Outcome, SimulationEvent
from comigs_mlx.simulation.workers import shared
from comigs_mlx.simulation.workers.shared import Task, Tasks

SUMMARY = "the --jobs are processes of this machine, which take tasks in turn"

PATIENCE = 1.0
"""The seconds without an event after which the processes are checked to be alive."""


def run(
    experiment: Experiment, tasks: Tasks, say: Say, options: None = None
) -> Iterator[SimulationEvent]:
    """Compute tasks in `--jobs` processes, and no more than there are tasks.

    Raises:
        ComigsError: If one of them raised it; the others are ended then.
        RunError: If one of them died.
    """
    count = min(experiment.config.jobs, len(tasks.left))
    if count == 1:
        yield from shared.run(experiment, tasks, say, options)
        return
    context: Any = multiprocessing.get_context("spawn")
    events, work = context.Queue(), (experiment.config, tuple(tasks.left))
    workers = [
        context.Process(target=_work, args=(*work, events, cores), daemon=True)
        for cores in shares(_cores(), count)
    ]
    try:
        for worker in workers:
            worker.start()
        while tasks.left:
            event = _next(events, workers)
            if isinstance(event, Outcome):  # each process tells of all of them
                task = (event.method, event.seed)
                if task not in tasks.left:
                    continue
                tasks.left.remove(task)
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


def _work(
    config: SimulateConfig, tasks: Sequence[Task], events: Any, cores: list[int]
) -> None:
    """Compute tasks in this process until all have an outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        experiment = Experiment(config, quiet)
        for event in shared.run(
            experiment, Tasks(experiment.folder, list(tasks)), quiet
        ):
            events.put(event)
    except ComigsError as error:
        events.put(error)


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
