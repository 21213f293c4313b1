"""How much memory and disk participants take: said, and checked, before the start."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.errors import RunError
from comigs_mlx.model import params
from comigs_mlx.simulation import expert_shapes, method
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import ParticipantData, pooled
from comigs_mlx.training.memory_estimate import total_memory

GB = 10**9

SHARE = 1 / 3
"""The part of the machine's memory that participants' states may have, by default."""

MOMENTS = 2
"""The arrays that an optimiser keeps for each parameter that learns."""


@dataclass(frozen=True)
class Room:
    """What the participants of one method and seed take, at most, in bytes.

    Attributes:
        states: The states of all participants.
        contributions: The generalists that they send in a round.
    """

    states: int = 0
    contributions: int = 0

    @property
    def disk(self) -> int:
        """A save and the states that have changed since, and a round's contributions.

        The contributions are there twice while a round is closed: as they were sent,
        and as they were checked.
        """
        return 2 * self.states + 2 * self.contributions


def resident(config: SimulateConfig) -> float:
    """Return the bytes of participants' states that one process keeps in memory."""
    most = config.memory_limit
    all_jobs = SHARE * total_memory() if most is None else most * GB
    return all_jobs / config.jobs


def needed(
    name: str,
    of_method: Method,
    members: Sequence[ParticipantData],
    layouts: Layouts,
    config: SimulateConfig,
) -> Room:
    """Compute what the participants of a method take."""
    of_method = expert_shapes.with_overrides(name, of_method, config)
    if not of_method.trained:
        return Room()
    own = [pooled(members)] if of_method.pooled else members
    shapes = expert_shapes.shapes(name, of_method, own, config).values()
    of_shape = {shape: layouts.fresh_values(shape, 0) for shape in set(shapes)}
    stages, states, sent = len(of_method.stages), 0, 0
    for shape in shapes:
        flat = params.flatten(of_shape[shape])
        states += sum(a.nbytes for a in flat.values()) * (1 + MOMENTS * stages)
        shared = (a for path, a in flat.items() if params.role_of(path) == "generalist")
        sent += sum(a.nbytes for a in shared) * of_method.shared
    return Room(states, sent)


def check(
    config: SimulateConfig, members: Sequence[ParticipantData], layouts: Layouts
) -> str:
    """Say how much memory and disk the participants take.

    Raises:
        RunError: If the disk of --out has less room.
    """
    every = [
        needed(n, method.load(n), members, layouts, config) for n in config.methods
    ]
    room = max(every, key=lambda one: one.disk)
    disk = room.disk * config.jobs
    free = shutil.disk_usage(_existing(config.folder)).free
    kept = min(room.states, int(resident(config)))
    text = (
        f"{len(members)} participants: {_gb(room.states)} of values and optimisers, "
        f"{_gb(kept)} of them in memory; up to {_gb(disk)} of disk in {config.folder}"
    )
    if disk > free:
        raise RunError(
            f"{text}, where {_gb(free)} are free: choose another --out, a smaller "
            "--rank, or fewer --jobs"
        )
    return f"{text} ({_gb(free)} are free)"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
