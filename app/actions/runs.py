"""The runs to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comigs_mlx.errors import RunError
from comigs_mlx.runs.listing import RunEntry, list_runs

BASE = ""
"""Value of the choice "base model only"."""


def choices(folder: Path) -> list[tuple[str, str]]:
    """Label and value of everything that can be talked to, the base model first."""
    return [("Base model only", BASE), *((label(e), e.name) for e in entries(folder))]


def entries(folder: Path) -> list[RunEntry]:
    """The runs in a folder; none where there is no folder."""
    return list_runs(folder) if folder.is_dir() else []


def label(entry: RunEntry) -> str:
    """A run in a word or two."""
    if entry.problem is not None:
        return f"{entry.name} · broken"
    at = [] if entry.step is None else [f"step {entry.step}"]
    return " · ".join([entry.name, *at, *(["training"] if entry.training else [])])


def first(folder: Path) -> str:
    """The run to begin with: the one used last that works, else the base model."""
    usable = [e for e in entries(folder) if e.problem is None and e.step is not None]
    newest = max(usable, key=lambda e: e.path.stat().st_mtime, default=None)
    return BASE if newest is None else newest.name


def ready(folder: Path) -> dict[str, int]:
    """Runs that can be talked to, and the step each is at; those under way left out."""
    return {
        e.name: e.step
        for e in entries(folder)
        if e.problem is None and e.step is not None and not e.training
    }


def find(folder: Path, name: Any) -> Path | None:
    """The folder of a chosen run; None is the base model alone.

    Raises:
        RunError: If there is no such run, or it is broken.
    """
    if name in (BASE, None):
        return None
    for entry in entries(folder):
        if entry.name == name:
            if entry.problem is not None:
                raise RunError(f"{entry.name} cannot be used: {entry.problem}")
            return entry.path
    raise RunError(f"There is no run of that name in {folder}: reload the page.")


def advice(folder: Path) -> str:
    """A sentence for who has no run yet; empty where there is one."""
    found = entries(folder)
    if not found:
        return (
            "No run yet: this is the base model alone. Train one of your own in the "
            "Train tab."
        )
    broken = [f"{e.name}: {e.problem}" for e in found if e.problem is not None]
    return f"Broken run. {' '.join(broken)}" if broken else ""
