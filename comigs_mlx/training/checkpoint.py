"""Exact resume: one folder holds all that a trainer needs to go on bit for bit.

    step-0000040/
        values.safetensors            experts, attention LoRA and routers
        optimizer_state.safetensors   both optimisers, by the index of their group
        trainer_state.json            position, identity, SHA-256 of all three

The folder gets its name only when it is complete, so a process that is killed while
saving leaves none. If it is killed while replacing a folder, it leaves the new one or,
under a hidden name until `files.restore`, the old one. Batches and initial values are
functions of the seed and of counters, so no random state has to be saved.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import json_files, tensors
from comigs_mlx.errors import RunError, reading
from comigs_mlx.files import replacing_dir, sha256, write_json
from comigs_mlx.model import params
from comigs_mlx.training import trainer_state
from comigs_mlx.training.optimisers import Schedule, expert_schedule
from comigs_mlx.training.records import Position
from comigs_mlx.training.trainer import Trainer

FORMAT_VERSION = 1
VALUES = "values.safetensors"
OPTIMIZERS = "optimizer_state.safetensors"
STATE = "trainer_state.json"

ADVICE = "remove its folder to resume from the save before"
"""What to do about a save that cannot be read."""

CHANGED = "it has changed since it was written"


def save(trainer: Trainer, states: Path, identity: dict[str, Any], keep: int) -> Path:
    """Write the trainer's state as a new folder of `states`; drop all but `keep`.

    Args:
        trainer: The trainer, between two records of `Trainer.run`.
        states: The folder that holds the saves.
        identity: The values that must be equal for a resume (base model, experts'
            shape).
        keep: The number of saves to leave, the new one included.

    Returns:
        The new folder.
    """
    folder = states / f"step-{trainer.position.step:07d}"
    values = params.flatten(params.select(trainer.mixture.model, params.ROLES))
    with replacing_dir(folder) as temporary:
        for name, arrays in ((VALUES, values), (OPTIMIZERS, _optimizers(trainer))):
            tensors.save(temporary / name, arrays)
        content = {
            "format_version": FORMAT_VERSION,
            "position": trainer.position.to_dict(),
            "identity": identity,
            "schedule": {
                **asdict(trainer.schedule),
                "learning_rate": trainer.options.learning_rate,
            },
            "sha256": {name: sha256(temporary / name) for name in (VALUES, OPTIMIZERS)},
        }
        write_json(temporary / STATE, {**content, "seal": _seal(content)})
    prune(states, keep)
    return folder


def prune(states: Path, keep: int) -> None:
    """Remove all saves but the newest `keep`."""
    for old in saves(states)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def saves(states: Path) -> list[Path]:
    """Return the saves in a folder, oldest first."""
    folders = states.glob("step-*") if states.is_dir() else []
    return sorted(path for path in folders if re.fullmatch(r"step-\d+", path.name))


def latest(states: Path) -> Path:
    """Return the newest save.

    Raises:
        RunError: If there is no save.
    """
    if not (all_saves := saves(states)):
        raise RunError(
            f"nothing to resume: {states} holds no complete save; start again with "
            "another --run, or remove this one"
        )
    return all_saves[-1]


def restore(
    trainer: Trainer,
    save: Path,
    identity: dict[str, Any],
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a trainer where it was when `save` was written.

    If it has another number of steps than the saved run, its learning rate goes on from
    where it was; a learning rate that is changed too begins there.

    Args:
        trainer: The trainer, which has made no step yet.
        save: The folder of a save.
        identity: The values that must be equal, as `save` was given them.
        before: The `steps` and `learning_rate` of the saved run, for saves that do not
            hold them.

    Returns:
        The identity stored in the save.

    Raises:
        RunError: If the save is incomplete, damaged, or of another base model or other
            experts; nothing has been changed then.
    """
    state = read_state(save)
    problems = list(_foreign(state["identity"], identity))
    values = load_values(save)
    optimizers = trainer_state.unpacked(load_optimizers(save))
    expected = params.flatten(params.select(trainer.mixture.model, params.ROLES))
    if not problems and _shapes(values) != _shapes(expected):
        problems.append("its tensors have other names or shapes")
    if not problems and len(optimizers) != len(_groups(trainer)):
        problems.append("it has another number of optimisers")
    if problems:
        raise RunError(f"{save} belongs to another run: {'; '.join(problems)}")
    trainer.mixture.model.update(params.unflatten(values))
    for group, own in zip(_groups(trainer), optimizers, strict=True):
        rate = group.optimizer.state["learning_rate"]  # may differ from the saved run's
        group.optimizer.state = {**own, "learning_rate": rate}
    trainer.position = Position.from_dict(state["position"])
    trainer.schedule = _schedule(trainer, state.get("schedule"), before or {})
    stored: dict[str, Any] = state["identity"]
    return stored


def _schedule(
    trainer: Trainer, stored: Mapping[str, Any] | None, before: Mapping[str, Any]
) -> Schedule:
    """Return the schedule that goes on from that of a save."""
    options, step = trainer.options, trainer.position.step
    rate = options.learning_rate
    fresh = expert_schedule(options)
    if stored is not None:
        parts = {name: stored[name] for name in ("last", "first", "share")}
        earlier, earlier_rate = replace(fresh, **parts), stored["learning_rate"]
    else:
        earlier = replace(fresh, last=before.get("steps", options.steps))
        earlier_rate = before.get("learning_rate", rate)
    if earlier.last != options.steps and earlier_rate != rate:
        return fresh.anew(step, options.steps)
    return earlier.going_on(step, options.steps)


def read_state(save: Path) -> dict[str, Any]:
    """Return the JSON part of a save, after checking that its files are whole.

    Raises:
        RunError: If something is missing, damaged or of another format version.
    """
    state = json_files.read(save / STATE, RunError, ADVICE, FORMAT_VERSION)
    with reading(save / STATE, RunError, ADVICE):
        content = {key: value for key, value in state.items() if key != "seal"}
        if state["seal"] != _seal(content):
            raise ValueError(CHANGED)
    for name, digest in state["sha256"].items():
        with reading(save / name, RunError, ADVICE):
            if sha256(save / name) != digest:
                raise ValueError(CHANGED)
    return state


def load_values(save: Path) -> dict[str, mx.array]:
    """Load the experts, attention LoRA and routers of a save, by path."""
    return _load(save / VALUES)


def load_optimizers(save: Path) -> dict[str, mx.array]:
    """Load the states of a save's optimisers, as `trainer_state.packed` named them."""
    return _load(save / OPTIMIZERS)


def replace_values(save: Path, values: dict[str, mx.array]) -> None:
    """Put other values into a save; optimisers and position stay as they are.

    If the process is killed, the save is the old or the new one (see `files.restore`).

    Raises:
        RunError: If the save is incomplete or damaged; it is left as it is.
    """
    rewrite(save, read_state(save), values, load_optimizers(save))


def rewrite(
    folder: Path,
    state: Mapping[str, Any],
    values: Mapping[str, mx.array],
    optimizers: Mapping[str, mx.array],
) -> None:
    """Write a save that goes on from another one with other arrays.

    Args:
        folder: The folder of the save, which may be there already.
        state: The JSON part of the other save, with what is changed in it.
        values: The experts, attention LoRA and routers, by path.
        optimizers: The states of the optimisers, as `load_optimizers` returns them.
    """
    arrays = {VALUES: values, OPTIMIZERS: optimizers}
    with replacing_dir(folder) as temporary:
        for name, of_file in arrays.items():
            tensors.save(temporary / name, dict(of_file))
        digests = {name: sha256(temporary / name) for name in arrays}
        content = {key: value for key, value in state.items() if key != "seal"}
        content["sha256"] = digests
        write_json(temporary / STATE, {**content, "seal": _seal(content)})


def _load(file: Path) -> dict[str, mx.array]:
    with reading(file, RunError, ADVICE):
        return tensors.load(file)[0]


def _groups(trainer: Trainer) -> list[Any]:
    return [group for level in trainer.levels for group in level.groups]


def _optimizers(trainer: Trainer) -> dict[str, mx.array]:
    return trainer_state.packed([g.optimizer.state for g in _groups(trainer)])


def _foreign(stored: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
    for key, value in current.items():
        if stored.get(key) != value:
            yield f"{key} is {stored.get(key)!r} there, {value!r} here"


def _seal(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _shapes(values: dict[str, mx.array]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(array.shape) for path, array in values.items()}
