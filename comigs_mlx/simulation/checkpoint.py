"""Exact resume of one method and seed, between two rounds.

    state.json                       round, clock, bytes, positions, reports
    participants/<name>.safetensors  values and optimiser states
    residuals/<name>.safetensors     quantisation residuals (int8)
    federation/...                   the files of the federation

Batches, participation and drop-outs are functions of seeds and counters, so that no
random state has to be kept. The folder gets its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import json_files, tensors
from comigs_mlx.errors import RunError, reading
from comigs_mlx.files import replacing_dir, write_bytes, write_json
from comigs_mlx.model import params
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.participant import Participant
from comigs_mlx.training import trainer_state
from comigs_mlx.training.records import Position, Report
from comigs_mlx.training.trainer_state import TrainerState

STATE, VALUES = "state.json", "values"

ADVICE = "remove its folder to begin this method and seed again"
"""What to do about a save that cannot be read."""


def save(simulation: Simulation, folder: Path) -> None:
    """Write the state of a simulation, in place of an older one."""
    with replacing_dir(folder) as temporary:
        (temporary / "participants").mkdir()
        for participant in simulation.participants:
            file = temporary / "participants" / f"{participant.name}.safetensors"
            tensors.save(file, _arrays(participant))
        if simulation.federation is not None:
            _save_federation(simulation.federation, temporary)
        write_json(temporary / STATE, _state(simulation))


def rounds_done(folder: Path) -> int:
    """How many rounds a save has behind it; 0 where there is none."""
    with contextlib.suppress(RunError):  # `restore` names what is damaged
        with reading(folder / STATE, RunError, ADVICE):
            return int(json_files.read(folder / STATE, RunError, ADVICE)["round"])
    return 0


def restore(simulation: Simulation, folder: Path) -> None:
    """Put a new simulation of the same configuration where it was saved.

    Raises:
        RunError: If the save cannot be read.
    """
    state = json_files.read(folder / STATE, RunError, ADVICE)
    for participant in simulation.participants:
        file = folder / "participants" / f"{participant.name}.safetensors"
        with reading(file, RunError, ADVICE):
            arrays = tensors.load(file)[0]
        with reading(folder / STATE, RunError, ADVICE):
            _restore(participant, state["participants"][participant.name], arrays)
    with reading(folder / STATE, RunError, ADVICE):
        if simulation.federation is not None:
            _restore_federation(simulation.federation, folder, state["clock"])
        simulation.round, simulation.bytes = state["round"], state["bytes"]
        simulation.seconds = state["seconds"]


def _state(simulation: Simulation) -> dict[str, Any]:
    return {
        "round": simulation.round,
        "bytes": simulation.bytes,
        "seconds": simulation.seconds,
        "clock": simulation.federation.time
        if simulation.federation is not None
        else 0.0,
        "participants": {
            participant.name: {
                "rank": participant.options.rank,
                "positions": {
                    str(stage): progress.position.to_dict()
                    for stage, progress in participant.progress.items()
                },
                "report": participant.report and dataclasses.asdict(participant.report),
            }
            for participant in simulation.participants
        },
    }


def _arrays(participant: Participant) -> dict[str, mx.array]:
    arrays = {
        f"{VALUES}.{path}": array
        for path, array in params.flatten(participant.values).items()
    }
    for stage, progress in participant.progress.items():
        arrays |= trainer_state.packed(progress.optimizers, f"{stage}.")
    return arrays


def _restore(
    participant: Participant,
    stored: Mapping[str, Any],
    arrays: Mapping[str, mx.array],
) -> None:
    if stored["rank"] != participant.options.rank:
        participant.shrink(stored["rank"])
    participant.values = params.unflatten(trainer_state.under(f"{VALUES}.", arrays))
    for stage, position in stored["positions"].items():
        optimizers = trainer_state.unpacked(arrays, f"{stage}.")
        progress = TrainerState(optimizers, Position.from_dict(position))
        participant.progress[int(stage)] = progress
    report = stored["report"]
    participant.report = None if report is None else Report(**report)


def _save_federation(federation: LocalFederation, folder: Path) -> None:
    for path, content in federation.files().items():
        write_bytes(folder / "federation" / path, content)
    for name, residual in federation.residuals.items():
        file = folder / "residuals" / f"{name}.safetensors"
        write_bytes(file, tensors.serialise(residual, {}))


def _restore_federation(
    federation: LocalFederation, folder: Path, clock: float
) -> None:
    root = folder / "federation"
    files = {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
    federation.restore(files, clock)
    for file in sorted((folder / "residuals").glob("*.safetensors")):
        with reading(file, RunError, ADVICE):
            federation.residuals[file.stem] = tensors.load_numpy(file)[0]
