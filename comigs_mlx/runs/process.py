"""Trains in a process of its own, which outlives the one that started it; no MLX.

RUN/.train.json    process id, start and options
RUN/.train.log     what the process prints, for users
RUN/.train.told.json    what it tells this program (see `runs.told`)
RUN/.train.lock    locked as long as the process lives, because it inherits the open
                   file: a process id that is used again misleads nobody
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comigs_mlx import json_files
from comigs_mlx.config import read_yaml
from comigs_mlx.errors import ComigsError, RunError
from comigs_mlx.files import write_json
from comigs_mlx.options import train_config
from comigs_mlx.platform import cpu
from comigs_mlx.runs import progress
from comigs_mlx.runs.place import Place, is_locked, reports
from comigs_mlx.runs.told import ENVIRONMENT, Told
from comigs_mlx.runs.told import FILE as TOLD
from comigs_mlx.runs.told import read as read_told

RECORD, LOG, LOCK = ".train.json", ".train.log", ".train.lock"
LINES = 50

_children: dict[Path, subprocess.Popen[bytes]] = {}
"""The processes that this very one started: only their exit codes can be known."""


@dataclass(frozen=True)
class TrainingState:
    """The state of a run's training.

    Attributes:
        running: Whether a process trains the run, whoever started it.
        exit_code: The exit code of the process that has ended; None where it is not
            known.
        lines: The last lines that the process printed.
        notes: The notes that the process wrote for its user, a sentence each.
        progress: The expert steps done and in all, where they are known.
        eta_seconds: The seconds left, as the process wrote last; None where it wrote
            none or does not run.
        paused: The words of the process on its pause, such as "paused: on battery
            24 %"; None while it works or does not run.
        problem: The reason why the process ended early, in a sentence; None if it did
            not.
        kind: The word for what that reason is about, of `errors.kind_of`.
        stopping: Whether the process was asked to stop.
    """

    running: bool
    exit_code: int | None = None
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    progress: tuple[int, int] | None = None
    eta_seconds: float | None = None
    paused: str | None = None
    problem: str | None = None
    kind: str = ""
    stopping: bool = False


def start(run: Path, options: dict[str, Any]) -> None:
    """Start a training in the background.

    Args:
        run: The run's folder.
        options: The options of `comigs_mlx.train`, by their names in config.yaml; those
            that are None are left out. `resume` continues the run.

    Raises:
        ComigsError: If an option cannot work, the folder is taken, or the run is being
            trained; nothing has been written then.
    """
    place = Place(run)
    flags = _flags({**options, "run": str(place.path)})
    resume = train_config(flags).resume
    if state(run).running:
        raise RunError(f"{run} is being trained already: stop that first")
    if resume:
        place.check_resumable()
    else:
        place.check_new()
    place.path.mkdir(parents=True, exist_ok=True)
    _spawn(place.path, flags, options)


def _flags(options: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            flags += [f"--{flag}={one}" for one in value]
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags


def _spawn(run: Path, flags: list[str], options: dict[str, Any]) -> None:
    with (run / LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{run} is being trained already") from error
        told = run / TOLD
        told.unlink(missing_ok=True)  # of an earlier training
        with (run / LOG).open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "comigs_mlx.train", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env={**os.environ, ENVIRONMENT: str(told.resolve())},
            )
    _children[run.resolve()] = child
    record = {"pid": child.pid, "started": time.time(), "options": options}
    write_json(run / RECORD, record)


def state(run: Path) -> TrainingState:
    """Tell the state of a run's training, also of one that another program started."""
    place = Place(run)
    started_here = is_locked(place.path / LOCK)
    running = started_here or place.is_in_use()
    record, told = _record(place.path), read_told(place.path)
    reported = progress.read(place.path, since=_started(record))
    before_problem = TrainingState(
        running=running,
        exit_code=None if running else _exit_code(place.path),
        lines=_lines(place.path / LOG),
        notes=[] if told is None else told.notes,
        progress=_progress(place, reported),
        eta_seconds=reported.get("eta_seconds") if running else None,
        paused=reported.get("state") if running else None,
        stopping=started_here and "stopped" in record,
    )
    problem = None if running else _problem(before_problem, record, told)
    about = told.kind if problem is not None and told is not None else ""
    return dataclasses.replace(before_problem, problem=problem, kind=about)


def stop(run: Path) -> None:
    """Ask the training to save and end; a second call changes nothing.

    Raises:
        RunError: If no process that was started here still trains the run.
    """
    path = Place(run).path
    record = _record(path)
    if not is_locked(path / LOCK) or "pid" not in record:
        elsewhere = Place(run).is_in_use()
        raise RunError(
            f"{run} is being trained by a program in another window: stop it there"
            if elsewhere
            else f"{run} is not being trained"
        )
    if "stopped" not in record:  # a second signal would end it unsaved
        write_json(path / RECORD, {**record, "stopped": time.time()})
        os.kill(record["pid"], signal.SIGTERM)


def _record(run: Path) -> dict[str, Any]:
    return json_files.known(run / RECORD)


def _started(record: dict[str, Any]) -> float:
    """Return when the training began, or 0 if that is not known."""
    started = record.get("started")
    return started if isinstance(started, int | float) else 0.0


def _exit_code(run: Path) -> int | None:
    child = _children.get(run.resolve())
    return None if child is None else child.poll()


def _lines(log: Path) -> list[str]:
    """Return the last lines; of a bar that was drawn over itself, the last state."""
    try:
        with log.open(encoding="utf-8", errors="replace", newline="\n") as file:
            return list(deque((line.rstrip("\n") for line in file), LINES))
    except OSError:
        return []


def _progress(place: Place, reported: dict[str, Any]) -> tuple[int, int] | None:
    """Return expert steps done and in all, as the process wrote them or as the run
    is saved.
    """
    try:
        total = int(reported.get("steps") or read_yaml(place.config)["steps"])
        steps_done = reported.get("step")
        if (
            steps_done is None
        ):  # the run is trained in another way, or has only just begun
            steps = [
                int(report["step"]) for report, _ in reports(place.metrics, "step")
            ]
            steps_done = max(steps, default=0)
        return min(int(steps_done), total), total
    except (ComigsError, OSError, KeyError, TypeError, ValueError):
        return None


def _problem(
    state: TrainingState, record: dict[str, Any], told: Told | None
) -> str | None:
    """Tell why a process that has ended did not finish; None if it did.

    A process of an earlier version told nothing: it is done if all its steps are.
    """
    done, total = state.progress or (0, 1)
    finished = told.done if told is not None else done >= total
    if not record or "stopped" in record or finished:
        return None
    if told is not None and told.problem is not None:
        return told.problem
    if (reason := cpu.crash(state.exit_code)) is not None:
        return f"training ended before it was done ({reason}): resume it"
    last = f" (it said last: {state.lines[-1]})" if state.lines else ""
    return f"training ended before it was done{last}: resume it"
