"""The lean of a run, found on validation text and kept in the run.

A lean X adds X to the specialists' logits in every block (`inference.tilts`). Which X
serves best is a search in one dimension: the mean loss of the mixture on validation
text as a function of X. The result stays on the device, in

    RUN/lean.json   {"format_version", "values", "lean", "loss", "loss_without",
                     "tokens"}

where `values` is the digest of the experts' and routers' values that it was found for:
after more training or a pull it is not used any more. Test text takes no part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comigs_mlx import json_files
from comigs_mlx.errors import RunError
from comigs_mlx.files import write_json
from comigs_mlx.inference.settings import MOST_LEAN, Settings
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model import params
from comigs_mlx.model.fingerprint import array_digest
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.runs.place import Place

FILE = "lean.json"
FORMAT = 1

FIRST_STEPS = (0.5, -0.5)
WALK = (1.0, 2.0, 4.0)
"""How far the search goes on, in the better of the first two directions."""

REFINEMENTS = 2
"""Vertices of a parabola that are tried around the best lean so far."""

MOST_TRIALS = 1 + len(FIRST_STEPS) + len(WALK) + REFINEMENTS

LEAST_GAIN = 1e-4
"""Nats a token below which a lean is not worth having: then it is 0."""


@dataclass(frozen=True)
class Trial:
    """One lean that was tried.

    Attributes:
        lean: The number that was added to the specialists' logits.
        loss: The mean loss of the mixture with it, in nats a token.
    """

    lean: float
    loss: float


@dataclass(frozen=True)
class Kept:
    """The lean that a run keeps.

    Attributes:
        values: The digest of the experts and routers it was found for.
        lean: The number that is added to the specialists' logits.
        loss: The mean loss on validation text with it, in nats a token.
        loss_without: The same with a lean of 0.
        tokens: The number of predicted tokens that it was found on.
    """

    values: str
    lean: float
    loss: float
    loss_without: float
    tokens: int


def search(loss: Callable[[float], float]) -> Iterator[Trial]:
    """Look for the lean of the smallest loss; yield each one that is tried.

    It begins at 0, goes on in the better direction while that helps, and then tries
    the vertex of the parabola through the three leans around the best one. There are
    `MOST_TRIALS` at most.

    Args:
        loss: The mean loss with a lean, in nats a token; it is called once for each.
    """
    tried: dict[float, float] = {}

    def trial(lean: float) -> Trial:
        tried[lean] = loss(lean)
        return Trial(lean, tried[lean])

    yield trial(0.0)
    for lean in FIRST_STEPS:
        yield trial(lean)
    last = min(FIRST_STEPS, key=tried.__getitem__)
    for size in WALK:
        if tried[last] > min(tried.values()):
            break
        last = math.copysign(size, last)
        yield trial(last)
    for _ in range(REFINEMENTS):
        if (vertex := _vertex(tried)) is None:
            break
        yield trial(vertex)


def _vertex(tried: dict[float, float]) -> float | None:
    """The minimum of the parabola through the best lean and its two neighbours.

    Returns:
        The lean with two digits; None where the best one is the last of a side, or
        the parabola opens downwards, or the result was tried already.
    """
    leans = sorted(tried)
    at = leans.index(min(tried, key=tried.__getitem__))
    if not 0 < at < len(leans) - 1:
        return None
    near = leans[at - 1 : at + 2]
    a, b, _ = np.polyfit(near, [tried[lean] for lean in near], 2).tolist()
    if a <= 0:
        return None
    vertex = round(-b / (2 * a), 2)
    return vertex if near[0] < vertex < near[2] and vertex not in tried else None


def best(trials: Sequence[Trial]) -> Trial:
    """The trial to keep: 0 unless another one is better by `LEAST_GAIN`."""
    without = next(trial for trial in trials if not trial.lean)
    least = min(trials, key=lambda trial: trial.loss)
    return least if least.loss < without.loss - LEAST_GAIN else without


def values_digest(mixture: Mixture) -> str:
    """The SHA-256 of all values of the experts and routers."""
    values = params.flatten(params.select(mixture.model, params.ROLES))
    return array_digest(values, repr(mixture.options))


def keep(folder: Place, mixture: Mixture, trials: Sequence[Trial], tokens: int) -> Kept:
    """Write the best of some trials into a run's folder.

    Args:
        folder: The folder of the run.
        mixture: The mixture with the values that the trials were made with.
        trials: All trials; one of them has the lean 0.
        tokens: The number of predicted tokens of each.
    """
    without = next(trial.loss for trial in trials if not trial.lean)
    chosen = best(trials)
    kept = Kept(values_digest(mixture), chosen.lean, chosen.loss, without, tokens)
    content = {"format_version": FORMAT, **dataclasses.asdict(kept)}
    write_json(folder.path / FILE, content)
    return kept


def read(file: Path) -> Kept | None:
    """Read a run's lean; None if it keeps none.

    Raises:
        RunError: If the file is damaged or of another format version.
    """
    if not file.exists():
        return None
    advice = f"remove it, or give --lean (--calibrate-lean writes a new {FILE})"
    found = json_files.read(file, RunError, advice, FORMAT)
    names = [field.name for field in dataclasses.fields(Kept)]
    if missing := [name for name in names if name not in found]:
        raise RunError(f"{file} lacks {', '.join(missing)}: {advice}")
    kept = Kept(**{name: found[name] for name in names})
    fits = type(kept.lean) in (int, float) and abs(kept.lean) <= MOST_LEAN
    if not fits or not isinstance(kept.values, str):
        raise RunError(f"{file} has the lean {kept.lean!r}: {advice}")
    return kept


def with_kept(
    settings: Settings,
    folder: Place,
    values: Callable[[], str],
    say: Say = quiet,
) -> Settings:
    """The settings with the run's own lean, where they ask for none.

    Args:
        settings: The settings that were asked for.
        folder: The run that speaks.
        values: Gives the digest of the values that speak; is called only if needed.
        say: Receives a sentence where a lean is used, or is too old to be used.
    """
    if settings.lean is not None or settings.selection != "auto":
        return settings
    kept = read(folder.path / FILE)
    if kept is None:
        return settings
    if kept.values != values():
        say(
            Note(
                f"{FILE} was made for other values of the experts and is not used: "
                "make it again with comigs_mlx.evaluate --calibrate-lean"
            )
        )
        return settings
    if kept.lean:
        say(Note(f"leaning by {kept.lean:+g}, as calibrated (--lean 0 turns it off)"))
    return dataclasses.replace(settings, lean=kept.lean)
