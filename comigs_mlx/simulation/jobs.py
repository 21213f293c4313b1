"""Methods and seeds side by side: each in a process of its own, on cores of its own.

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
from comigs_mlx.simulation.records import Event, Outcome

PATIENCE = 1.0
"""Seconds without an event after which somebody looks whether all are alive."""


def run(
    config: SimulateConfig, pairs: Sequence[tuple[str, int]], count: int
) -> Iterator[Event]:
    """The events of all methods and seeds, as they come; see `Experiment.run`.

    Args:
        config: As for one process.
        pairs: Method and seed of each.
        count: Processes; no more than there are pairs.

    Raises:
        ComigsError: What one of them raised; the others are ended then.
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
        left = len(pairs)
        while left:
            event = _next(events, workers)
            left -= isinstance(event, Outcome)
            yield event
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """The cores divided among `count` processes; more processes than cores share."""
    around = max(len(cores), 1)
    return [list(cores[i % around :: count]) for i in range(count)]


def _cores() -> list[int]:
    """Cores a process can be bound to; none where the system does not offer it."""
    known = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0)) if known else []


def _next(events: Any, workers: Sequence[Any]) -> Event:
    while True:
        try:
            event: Event | ComigsError = events.get(timeout=PATIENCE)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise RunError(_death(dead[0].exitcode)) from None
            continue
        if isinstance(event, ComigsError):
            raise event
        return event


def _death(status: int) -> str:
    """One line on why a process is gone and what to do."""
    reason = cpu.crash(status)
    if reason is None:
        reason = f"exit code {status}, maybe for want of memory"
    return f"one of the --jobs ended ({reason}): go on with --resume and fewer --jobs"


def _work(config: SimulateConfig, tasks: Any, events: Any, cores: list[int]) -> None:
    """What a process does: one pair after the other until there is none left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asked
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
