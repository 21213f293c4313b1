"""The generalists that a run pulled, kept to go back to without a network.

RUN/state/rounds/round-0000003.safetensors holds the generalists of round 3, all of one
federation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.sources import Array
from comigs_mlx.federation.tensorfile import serialise
from comigs_mlx.files import write_bytes

KEEP = 5
"""Rounds kept; older ones are removed."""

NAME = re.compile(r"round-(\d{7,})\.safetensors")


def write(run: Path, round: int, uri: str, tensors: Mapping[str, Array]) -> None:
    """Keep the generalists of a round.

    Of no more than `KEEP` rounds, and of no other federation, are any left.
    """
    for other in rounds(run):
        if _uri(_file(run, other)) != uri:
            _file(run, other).unlink()
    content = serialise(tensors, {"round": str(round), "uri": uri})
    write_bytes(_file(run, round), content)
    for old in rounds(run)[:-KEEP]:
        _file(run, old).unlink(missing_ok=True)


def rounds(run: Path) -> list[int]:
    """The rounds whose generalists are kept, ascending."""
    folder = run / "state" / "rounds"
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(found[1]) for name in names if (found := NAME.fullmatch(name)))


def read(run: Path, round: int, uri: str) -> dict[str, Array]:
    """The generalists of a round of a federation.

    Raises:
        FederationError: If they are not kept, or damaged.
    """
    file, have = _file(run, round), ", ".join(map(str, rounds(run))) or "none"
    try:
        tensors: dict[str, Array] = load(file.read_bytes())
    except FileNotFoundError:
        raise FederationError(
            f"{run} has not kept the generalist of round {round} (kept: {have}): "
            "choose one of these"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise FederationError(f"{file} is damaged: choose another round") from error
    if _uri(file) != uri:
        raise FederationError(f"{file} is of another federation: pull from this one")
    return tensors


def _uri(file: Path) -> str | None:
    """Of the federation that a file's generalists came from; None: damaged."""
    try:
        with safe_open(file, "numpy") as opened:
            return (opened.metadata() or {}).get("uri")
    except (SafetensorError, OSError):
        return None


def _file(run: Path, round: int) -> Path:
    return run / "state" / "rounds" / f"round-{round:07d}.safetensors"
