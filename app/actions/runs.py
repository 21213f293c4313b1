"""The runs to choose from."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.runs.listing import RunEntry, list_runs

from ..remedies import Mendable

BASE = ""
"""Value of the choice "base model only"."""


@dataclass(frozen=True)
class Overview:
    """Every run, as far as lists show it.

    Attributes:
        labels: Value -> label of each choice.
        usable: Names of those that can be talked to.
        training: Names of those that are being trained.
    """

    labels: dict[str, str]
    usable: list[str]
    training: list[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


MOMENT = 1.0
"""Seconds for which a list of the runs is shared."""


class Recent:
    """The runs in a folder, listed once a moment however many ask.

    Every page asks for them by two timers; who chooses a run asks `find`, which looks.

    Args:
        folder: Holds the runs.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()
        self._listed, self._at = list[RunEntry](), -math.inf

    def __call__(self) -> list[RunEntry]:
        """The runs as they were at most a moment ago."""
        with self._lock:
            if time.monotonic() - self._at > MOMENT:
                self._listed, self._at = entries(self._folder), time.monotonic()
            return self._listed


def overview(folder: Path) -> Overview:
    """The runs in a folder."""
    return overview_of(entries(folder))


def overview_of(found: Sequence[RunEntry]) -> Overview:
    """Runs that have been listed."""
    return Overview(
        labels={BASE: "Base model only", **{e.name: label(e) for e in found}},
        usable=[e.name for e in found if e.problem is None and e.step is not None],
        training=[e.name for e in found if e.training],
    )


def news(
    before: Mapping[str, Any] | None, now: Overview, chosen: Any
) -> tuple[str, list[str]]:
    """What to choose and to say when the runs have changed.

    Args:
        before: The overview that the page has, as JSON values; None: it has none.
        now: The overview of this moment.
        chosen: The run that is chosen on the page.

    Returns:
        The run to choose: the first one that can be talked to where there was none;
        and a sentence for each training that has ended, or run that can be used now.
    """
    value = chosen if chosen in now.labels else BASE
    if before is None:
        return value, []
    ended = [n for n in before["training"] if n not in now.training]
    fresh = [n for n in now.usable if n not in before["usable"]]
    if value == BASE and fresh and not before["usable"]:
        value = fresh[0]
    told = []
    for name in dict.fromkeys((*fresh, *ended)):
        if name in now.usable:
            what = "is trained" if name not in now.training else "has its first save"
            where = "talk to it" if name == value else "choose it at the side"
            told.append(f"{name} {what}: {where}.")
    return value, told


def entries(folder: Path) -> list[RunEntry]:
    """The runs in a folder; none where there is no folder."""
    return list_runs(folder) if folder.is_dir() else []


def label(entry: RunEntry) -> str:
    """A run in a word or two."""
    if entry.problem is not None:
        return f"{entry.name} · {'training' if entry.training else 'broken'}"
    state = "training" if entry.training else "ready"
    at = f"step {entry.step}" if entry.step is not None else state
    return f"{entry.name} · {at}" + (" · training" if entry.training else "")


def first(folder: Path) -> str:
    """The run to begin with: the one used last that works, else the base model."""
    usable = [e for e in entries(folder) if e.problem is None and e.step is not None]
    newest = max(usable, key=lambda e: e.path.stat().st_mtime, default=None)
    return BASE if newest is None else newest.name


def find(folder: Path, name: Any) -> Path | None:
    """The folder of a chosen run; None is the base model alone.

    Raises:
        Mendable: If there is no such run, or it is broken.
    """
    if name in (BASE, None):
        return None
    for entry in entries(folder):
        if entry.name == name:
            if entry.problem is not None and entry.training:
                raise Mendable(
                    f"{entry.name} is being trained and has nothing saved yet: wait "
                    "for its first save.",
                    "training",
                )
            if entry.problem is not None:
                raise Mendable(f"{entry.name} cannot be used: {entry.problem}", "who")
            return entry.path
    text = f"There is no run of that name in {folder}: reload the page."
    raise Mendable(text, "reload")
