"""Lists the runs in a folder by their files alone; needs no MLX."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import tensors
from comigs_mlx.errors import ComigsError, RunError
from comigs_mlx.runs import description
from comigs_mlx.runs.place import WRITE_AGAIN, Place, reports, value_files


@dataclass(frozen=True)
class RunEntry:
    """One run, as a list shows it.

    Attributes:
        name: The name of the run's folder.
        path: The path of the run's folder.
        base_id: The base model's id, where it is known.
        step: The training step of its experts; None where nothing is saved yet.
        experts: Names such as "generalist", "specialist".
        problem: The reason why it cannot be used, in a sentence; None if it can.
        training: Whether a process trains it right now.
    """

    name: str
    path: Path
    base_id: str | None = None
    step: int | None = None
    experts: list[str] = dataclasses.field(default_factory=list)
    problem: str | None = None
    training: bool = False


def list_runs(folder: Path) -> list[RunEntry]:
    """List the runs right in a folder, by name; none where there is no such folder."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry(path) for path in paths if _is_run(path)]


def _is_run(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_dir():
        return False
    place = Place(path)
    return place.info.is_file() or place.config.is_file() or place.is_in_use()


def entry(path: Path) -> RunEntry:
    """Describe one run; `problem` says what is wrong with it."""
    place = Place(path)
    described = RunEntry(path.name, path, training=place.is_in_use())
    try:
        info = place.read_info()
        base_id, _ = description.base_model(info)
        names = description.expert_options(info).names
        described = dataclasses.replace(described, base_id=base_id, experts=names)
        return dataclasses.replace(described, step=_step(place, info["generalists"]))
    except ComigsError as error:
        if described.training and not place.states.is_dir():  # it has only just begun
            return described
        return dataclasses.replace(described, problem=" ".join(str(error).split()))


def _step(place: Place, generalists: int) -> int:
    """Return the step of all files with experts, or that of the newest state."""
    steps = {_step_of(file) for file in value_files(place.path, generalists)}
    if len(steps) == 1 and (step := steps.pop()) is not None:
        return step
    states = sorted(place.states.glob("step-*")) if place.states.is_dir() else []
    if not states:
        raise RunError(f"{place.path} has no save yet: train it with --resume")
    return int(states[-1].name.removeprefix("step-"))


def _step_of(file: Path) -> int | None:
    """Return the training step in a file's metadata; None if there is no such file."""
    if not file.is_file():
        return None
    with tensors.reading(file, RunError, WRITE_AGAIN):
        return int(tensors.metadata(file).get("step", 0))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Read the reports of a run, oldest first; see `training.records.Report`."""
    lines = (line for line, _ in reports(Place(run).metrics, "step"))
    return [line for line in lines if "event" not in line]  # no report, but a pause
