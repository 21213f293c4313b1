"""Experts and routers as files (a public format).

    FOLDER/generalist/            a plain mlx-lm LoRA adapter: adapters.safetensors and
                                  adapter_config.json; it holds the attention LoRA too.
                                  More generalists: generalist-1/, generalist-2/, ...
    FOLDER/specialist/experts.safetensors     <linear path>.lora_a [S, in, r],
                                              <linear path>.lora_b [S, r, out]
    FOLDER/router/router.safetensors          <mlp path>.router.weight [E, dims]

Each safetensors file carries the training step in its metadata, so that files of
different steps (a process killed while saving) are noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import expert_shape, tensors
from comigs_mlx.errors import RunError, raise_all
from comigs_mlx.expert_shape import ADAPTER, ExpertShape, generalist_folders
from comigs_mlx.files import replacing, write_json
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.targets import targets
from comigs_mlx.runs.place import (
    ROUTERS,
    SPECIALISTS,
    WRITE_AGAIN,
    value_files,
)
from comigs_mlx.tensors import MlxArrays

ADAPTER_CONFIG = "adapter_config.json"


def write(folder: Path, mixture: Mixture, base_id: str, step: int) -> None:
    """Write all experts and routers of a mixture, each file atomically."""
    groups = params.by_role(mixture.model)
    for index, name in enumerate(generalist_folders(mixture.options.generalists)):
        arrays = dict(adapter(groups["generalist"], index))
        _save(folder / name / ADAPTER, arrays, step)
        config = adapter_config(mixture, base_id, attention=index == 0)
        write_json(folder / name / ADAPTER_CONFIG, config)
    stacked = {without(p, "specialist"): a for p, a in groups["specialist"].items()}
    _save(folder / SPECIALISTS, stacked, step)
    _save(folder / ROUTERS, groups["router"], step)


def read(folder: Path, mixture: Mixture) -> int | None:
    """Load the files that `write` wrote into a mixture of the same shape.

    Returns:
        The training step of the files; None if they are of different steps or one is
        missing, in which case nothing has been loaded.

    Raises:
        RunError: If a file is unreadable, or a tensor does not fit; nothing has been
            loaded then.
    """
    files = value_files(folder, mixture.options.generalists)
    if not all(file.is_file() for file in files):
        return None
    loaded = [_load(file) for file in files]
    steps = {metadata.get("step") for _, metadata in loaded}
    if len(steps) != 1:
        return None
    *adapters, specialists, routers = (arrays for arrays, _ in loaded)
    expected = params.flatten(params.select(mixture.model, params.ROLES))
    values = dict(_gathered(expected, adapters, specialists, routers))
    wrong = [
        f"{folder}: {path} has shape {_shape(values.get(path))}, expected {array.shape}"
        for path, array in expected.items()
        if _shape(values.get(path)) != tuple(array.shape)
    ]
    raise_all(RunError, wrong, shown=1)
    mixture.model.update(params.unflatten(values))
    mx.eval(values)
    return int(steps.pop() or 0)


def adapter_config(mixture: Mixture, base_id: str, attention: bool) -> dict[str, Any]:
    """Return what mlx-lm's adapter loader needs; keys are relative to a block."""
    options = mixture.options
    keys = targets(mixture, mlp=options.generalists > 0, attention=attention)
    shape = ExpertShape.of_options(options, len(mixture.sites), keys)
    return expert_shape.adapter_config(shape, base_id, keys)


def adapter(group: MlxArrays, index: int) -> Iterator[tuple[str, mx.array]]:
    """Yield generalist `index` under mlx-lm's names; the first has the attention
    LoRA.
    """
    for path, array in group.items():
        if array.ndim == 3:
            yield without(path, "generalist"), array[index]
        elif index == 0:
            yield without(path, "generalist"), array


def _gathered(
    expected: MlxArrays,
    adapters: list[MlxArrays],
    specialists: MlxArrays,
    routers: MlxArrays,
) -> Iterator[tuple[str, mx.array]]:
    """Yield each expected path with its array, if it has one: the inverse of
    `write`.
    """
    for path, array in expected.items():
        role = params.role_of(path)
        name = without(path, role)
        if role == "router" and path in routers:
            yield path, routers[path]
        elif role == "specialist" and name in specialists:
            yield path, specialists[name]
        elif role == "generalist" and array.ndim == 2 and name in adapters[0]:
            yield path, adapters[0][name]
        elif role == "generalist" and all(name in adapter for adapter in adapters):
            shapes = {tuple(adapter[name].shape) for adapter in adapters}
            if len(shapes) == 1:
                yield path, mx.stack([adapter[name] for adapter in adapters])


def without(path: str, role: str) -> str:
    """Return the public name of a parameter: its path without the role in it."""
    return ".".join(part for part in path.split(".") if part != role)


def _shape(array: mx.array | None) -> tuple[int, ...] | None:
    return None if array is None else tuple(array.shape)


def _save(file: Path, arrays: MlxArrays, step: int) -> None:
    with replacing(file) as temporary:
        tensors.save(temporary, arrays, {"format": "mlx", "step": str(step)})


def _load(file: Path) -> tuple[MlxArrays, dict[str, str]]:
    with tensors.reading(file, RunError, WRITE_AGAIN):
        return tensors.load(file)
