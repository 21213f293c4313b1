"""Experts of a run stop learning, or learn again; their values stay as they are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from comigs_mlx.config import dump_yaml
from comigs_mlx.errors import ConfigError, RunError
from comigs_mlx.files import write_text
from comigs_mlx.runs import versions
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint


def states(folder: RunFolder) -> dict[str, bool]:
    """Map the name of each expert of a run to whether it is frozen."""
    folder.check_exists()
    config = folder.read_config()
    frozen = config.training.frozen_names
    return {name: name in frozen for name in config.experts.names}


def freeze(
    folder: RunFolder, names: Sequence[str], thaw: Sequence[str]
) -> dict[str, bool]:
    """Let experts stop learning, and others learn again, when training goes on.

    Args:
        folder: The run.
        names: The names of the experts that stop.
        thaw: The names of those that learn again.

    Returns:
        The name of each expert, and whether it is frozen now.

    Raises:
        ConfigError: If there is no such expert; the run is what it was then.
    """
    with folder.in_use():
        before = states(folder)
        for name in [*names, *thaw]:
            if name not in before:
                known = ", ".join(before)
                raise ConfigError(f"there is no expert {name}: there are {known}")
        if both := set(names) & set(thaw):
            raise ConfigError(f"{min(both)} cannot both be frozen and learn again")
        now = {n: n in names or (old and n not in thaw) for n, old in before.items()}
        if now != before:
            _write(folder, [name for name, frozen in now.items() if frozen])
    return now


def _write(folder: RunFolder, frozen: list[str]) -> None:
    config = folder.read_config()
    training = dataclasses.replace(config.training, frozen=",".join(frozen))
    config = dataclasses.replace(config, training=training)
    step = 0
    with contextlib.suppress(RunError):  # of one that has not been saved yet
        state = checkpoint.read_state(checkpoint.latest(folder.states))
        step = state["position"]["step"]
    what = f"frozen are {', '.join(frozen)}" if frozen else "no expert is frozen"
    with versions.changing(folder.path, "freeze", step, what) as new:
        versions.copy_all(folder.path, new)
        write_text(new / folder.config.name, dump_yaml(config))
