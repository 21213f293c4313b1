"""Reads the generalists of a run as numpy arrays for a federation, and replaces them.

Tensors have the names of `expert_shape`. Specialists, routers and optimisers are
neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx import tensors as safetensors
from comigs_mlx.errors import RunError
from comigs_mlx.expert_shape import ADAPTER, generalist_folders, prefix
from comigs_mlx.files import replacing
from comigs_mlx.model import params
from comigs_mlx.runs.experts import adapter, without
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.place import WRITE_AGAIN
from comigs_mlx.training import checkpoint

Tensors = dict[str, npt.NDArray[np.float32]]


def read(folder: Path, count: int) -> tuple[Tensors, int]:
    """Read all tensors of the generalists in a folder, and their training step.

    Raises:
        RunError: If a file is missing or unreadable, or they are of different steps.
    """
    tensors: Tensors = {}
    steps = set()
    for index, name in enumerate(generalist_folders(count)):
        arrays, metadata = _load(folder / name / ADAPTER)
        steps.add(metadata.get("step", "0"))
        for tensor, array in arrays.items():
            values = np.array(array.astype(mx.float32))
            tensors[f"{prefix(index)}{tensor}"] = values
    if len(steps) != 1:
        raise RunError(
            f"{folder} has generalists of different steps: a save was interrupted; "
            "train it with --resume"
        )
    return tensors, int(steps.pop())


def replace(run: RunFolder, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace a run's generalists: those in use, and those of its newest save.

    Nothing else of the run changes; the best save stays what it was.

    Args:
        run: The run, which nothing trains (see `RunFolder.in_use`).
        tensors: The new tensors, with the names and shapes that `read` returns.

    Raises:
        RunError: If the run is damaged or the tensors do not fit; nothing has been
            changed then.
    """
    count = run.read_info()["generalists"]
    own, _ = read(run.path, count)
    shapes = {name: array.shape for name, array in own.items()}
    if shapes != {name: array.shape for name, array in tensors.items()}:
        raise RunError(f"{run.path} has generalists of another shape: nothing changed")
    if checkpoint.saves(run.states):
        newest = checkpoint.latest(run.states)
        values = checkpoint.load_values(newest)
        checkpoint.replace_values(newest, into_values(values, tensors))
    for index, name in enumerate(generalist_folders(count)):
        _write(run.path / name / ADAPTER, tensors, prefix(index))


def of_values(values: Mapping[str, mx.array], count: int) -> Tensors:
    """Return what `read` does, from a mixture's values instead of a run's files.

    Args:
        values: Maps a path in the model to its array; those of other roles are left
            out.
        count: The number of generalists.
    """
    generalists = {p: a for p, a in values.items() if params.role_of(p) == "generalist"}
    return {
        f"{prefix(index)}{tensor}": np.array(array.astype(mx.float32))
        for index in range(max(count, 1))
        for tensor, array in adapter(generalists, index)
    }


def into_values(
    values: Mapping[str, mx.array], tensors: Mapping[str, npt.NDArray[Any]]
) -> dict[str, mx.array]:
    """Replace the generalists among a mixture's values by `tensors`."""
    new = dict(values)
    for path, array in values.items():
        if params.role_of(path) != "generalist":
            continue
        name = without(path, "generalist")
        if array.ndim == 2:
            replacement = mx.array(tensors[name])
        else:
            of_all = [tensors[f"{prefix(i)}{name}"] for i in range(array.shape[0])]
            replacement = mx.stack([mx.array(expert) for expert in of_all])
        new[path] = replacement.astype(array.dtype)
    return new


def _write(file: Path, tensors: Mapping[str, npt.NDArray[Any]], begin: str) -> None:
    old, metadata = _load(file)
    new = {
        name: mx.array(tensors[begin + name]).astype(array.dtype)
        for name, array in old.items()
    }
    with replacing(file) as temporary:
        safetensors.save(temporary, new, metadata)


def _load(file: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    with safetensors.reading(file, RunError, WRITE_AGAIN):
        return safetensors.load(file)
