"""Exact resume of one method and seed, between two rounds.

    state.json                       round, clock, bytes, positions, reports
    participants/<name>.safetensors  values and optimiser states
    residuals/<name>.safetensors     quantisation residuals (int8)
    federation/...                   the files of the federation

Batches, participation and drop-outs are functions of seeds and counters, so that no
random state has to be kept. The folder gets its name only when it is complete. A
participant that has never trained has no file: what it begins with is made again; and
what everybody received last is not in the participants' files but in the federation's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comigs_mlx import json_files, tensors
from comigs_mlx.errors import RunError, reading
from comigs_mlx.files import replacing_dir, write_bytes, write_json
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.host import ADVICE, FILES
from comigs_mlx.simulation.local_federation import LocalFederation

STATE = "state.json"


def save(simulation: Simulation, folder: Path) -> None:
    """Write the state of a simulation, in place of an older one."""
    with replacing_dir(folder) as temporary:
        stored = simulation.host.save(temporary / FILES)
        if simulation.federation is not None:
            _save_federation(simulation.federation, temporary)
        write_json(temporary / STATE, _state(simulation, stored))


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
    with reading(folder / STATE, RunError, ADVICE):
        stored = {name: dict(state["participants"][name]) for name in simulation.names}
        simulation.ranks = {name: one["rank"] for name, one in stored.items()}
        simulation.round, simulation.bytes = state["round"], state["bytes"]
        simulation.seconds = state["seconds"]
        if simulation.federation is not None:
            _restore_federation(simulation.federation, folder, state["clock"])
    generalists = None
    if simulation.sharing is not None and state.get("received", False):
        simulation.sharing.received = True
        generalists = simulation.sharing.federation.generalists()
    simulation.host.restore(folder / FILES, stored, generalists)


def _state(
    simulation: Simulation, stored: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    federation, sharing = simulation.federation, simulation.sharing
    return {
        "round": simulation.round,
        "bytes": simulation.bytes,
        "seconds": simulation.seconds,
        "clock": 0.0 if federation is None else federation.time,
        "received": sharing is not None and sharing.received,
        "participants": stored,
    }


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
