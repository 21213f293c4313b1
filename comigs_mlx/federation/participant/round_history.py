"""The generalists that a run pulled or had, kept to go back to without a network.

RUN/state/rounds/round-0000003.safetensors holds the generalists of round 3, all of one
federation. own-0000001.safetensors holds what the run had learnt itself and nobody else
has: its generalists before a pull replaced them. Own ones are called by the negative of
their number, -1, so that one list of numbers has both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx import tensors as safetensors
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.tensor_source import Array, digest
from comigs_mlx.files import write_bytes

KEEP = 5
"""Rounds kept; older ones are removed."""

NAME = re.compile(r"round-(\d{7,})\.safetensors")
OWN = re.compile(r"own-(\d{7,})\.safetensors")


def write(run: Path, round: int, uri: str, tensors: Mapping[str, Array]) -> None:
    """Keep the generalists of a round.

    Of no more than `KEEP` rounds, and of no other federation, are any left.
    """
    for other in rounds(run):
        if _uri(_file(run, other)) != uri:
            _file(run, other).unlink()
    content = safetensors.serialise(tensors, {"round": str(round), "uri": uri})
    write_bytes(_file(run, round), content)
    for old in rounds(run)[:-KEEP]:
        _file(run, old).unlink(missing_ok=True)


def keep_own(
    run: Path, tensors: Mapping[str, Array], step: int, joining: bool = False
) -> int:
    """Keep the generalists that a run has trained itself, before they are replaced.

    The first ones stay for good, and the newest of the others: `KEEP` together.

    Args:
        run: The folder of the run.
        tensors: The generalists.
        step: The training step that they are of.
        joining: Whether they are what the run had before it joined a federation.

    Returns:
        What they are called: -1, -2, ...
    """
    stated = digest(tensors)
    for number in (known := own(run)):
        if _about(_file(run, number)).get("digest") == stated:
            return number
    number = min(known, default=0) - 1
    about = {"step": str(step), "digest": stated}
    about |= {"before": "joining"} if joining else {}
    write_bytes(_file(run, number), safetensors.serialise(tensors, about))
    for old in sorted(own(run), reverse=True)[1 : 1 - KEEP]:
        _file(run, old).unlink(missing_ok=True)
    return number


def own(run: Path) -> list[int]:
    """What the run's own generalists that are kept are called, newest first."""
    return sorted(-number for number in _numbers(run, OWN))


@dataclass(frozen=True)
class Kept:
    """A kept generalist.

    Attributes:
        number: The number of its round, or below 0 of an own one.
        step: The training step that an own one is of; None where it is not known.
        joining: Whether it is what the run had before it joined a federation.
        digest: The digest of an own one; see `tensor_source.digest`.
    """

    number: int
    step: int | None = None
    joining: bool = False
    digest: str | None = None

    @property
    def label(self) -> str:
        """What it is, in a few words for people."""
        if self.number >= 0:
            return f"round {self.number}"
        step = "?" if self.step is None else self.step
        before = "joining" if self.joining else "a pull"
        return f"own, of step {step}, before {before}"


def kept(run: Path, number: int) -> Kept:
    """What a kept generalist is."""
    if number >= 0:
        return Kept(number)
    about = _about(_file(run, number))
    step = about.get("step", "")
    return Kept(
        number,
        int(step) if step.isdecimal() else None,
        about.get("before") == "joining",
        about.get("digest"),
    )


def rounds(run: Path) -> list[int]:
    """The rounds whose generalists are kept, ascending."""
    return sorted(_numbers(run, NAME))


def _numbers(run: Path, pattern: re.Pattern[str]) -> list[int]:
    folder = run / "state" / "rounds"
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return [int(found[1]) for name in names if (found := pattern.fullmatch(name))]


def read(run: Path, round: int, uri: str) -> dict[str, Array]:
    """The generalists of a round of a federation, or below 0 the run's own.

    Raises:
        FederationError: If they are not kept, or damaged.
    """
    known = [*own(run), *rounds(run)]
    file, have = _file(run, round), ", ".join(map(str, known)) or "none"
    if not file.exists():
        raise FederationError(
            f"{run} has not kept the generalist of round {round} (kept: {have}): "
            "choose one of these"
        )
    with safetensors.reading(file, FederationError, "choose another round"):
        tensors, _ = safetensors.load_numpy(file)
    if round >= 0 and _uri(file) != uri:
        raise FederationError(f"{file} is of another federation: pull from this one")
    return tensors


def _uri(file: Path) -> str | None:
    """Of the federation that a file's generalists came from; None: damaged."""
    return _about(file).get("uri")


def _about(file: Path) -> dict[str, str]:
    try:
        return safetensors.metadata(file)
    except (OSError, ValueError):
        return {}


def _file(run: Path, round: int) -> Path:
    kind = "round" if round >= 0 else "own"
    return run / "state" / "rounds" / f"{kind}-{abs(round):07d}.safetensors"
