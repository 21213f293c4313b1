"""Exact resume of one method and seed, between two rounds.

    state.json                       round, clock, bytes, positions, reports
    participants/<name>.safetensors  values and optimiser states
    residuals/<name>.safetensors     quantisation residuals (int8)
    federation/...                   the files of the federation

Batches, participation and drop-outs are functions of seeds and counters, so that no
random state has to be kept. The folder gets its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import tensors
from comigs_mlx.errors import RunError
from comigs_mlx.files import replacing_dir, write_json
from comigs_mlx.model import params
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.local_federation import LocalFederation
from comigs_mlx.simulation.participant import Participant
from comigs_mlx.training.records import Position, Report
from comigs_mlx.training.trainer_state import TrainerState

STATE, VALUES = "state.json", "values"


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
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return int(state["round"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # `restore` names what is damaged


def restore(simulation: Simulation, folder: Path) -> None:
    """Put a new simulation of the same configuration where it was saved.

    Raises:
        RunError: If the save cannot be read.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for participant in simulation.participants:
            stored = state["participants"][participant.name]
            file = folder / "participants" / f"{participant.name}.safetensors"
            _restore(participant, stored, tensors.load(file)[0])
        if simulation.federation is not None:
            _restore_federation(simulation.federation, folder, state["clock"])
        simulation.round, simulation.bytes = state["round"], state["bytes"]
        simulation.seconds = state["seconds"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{folder} is damaged ({type(error).__name__}): remove it to begin this "
            "method and seed again"
        ) from error


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
        for index, state in enumerate(progress.optimizers):
            for path, array in params.flatten(state).items():
                arrays[f"{stage}.{index}.{path}"] = array
    return arrays


def _restore(
    participant: Participant,
    stored: Mapping[str, Any],
    arrays: Mapping[str, mx.array],
) -> None:
    if stored["rank"] != participant.options.rank:
        participant.shrink(stored["rank"])
    participant.values = params.unflatten(_under(f"{VALUES}.", arrays))
    for stage, position in stored["positions"].items():
        optimizers: list[Any] = []
        while found := _under(f"{stage}.{len(optimizers)}.", arrays):
            optimizers.append(params.unflatten(found))
        progress = TrainerState(optimizers, Position.from_dict(position))
        participant.progress[int(stage)] = progress
    report = stored["report"]
    participant.report = None if report is None else Report(**report)


def _under(prefix: str, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    return {k[len(prefix) :]: a for k, a in arrays.items() if k.startswith(prefix)}


def _save_federation(federation: LocalFederation, folder: Path) -> None:
    for path, content in federation.files().items():
        file = folder / "federation" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for name, residual in federation.residuals.items():
        (folder / "residuals").mkdir(exist_ok=True)
        file = folder / "residuals" / f"{name}.safetensors"
        file.write_bytes(tensors.serialise(residual, {}))


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
        federation.residuals[file.stem] = tensors.load_numpy(file)[0]
