"""Exports a run: merges its experts, writes them, reads them back and measures.

    weights of the experts -> one pair a linear -> a format's files -> read back -> loss

Nothing is left behind of an export that loses more than it may: the folder appears
when all is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comigs_mlx import registry
from comigs_mlx.data.batches import Batch, announced
from comigs_mlx.errors import ConfigError
from comigs_mlx.exports import card, heldout, merging
from comigs_mlx.exports.job import Job, copy_files, word
from comigs_mlx.files import replacing_dir, write_text
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model import licence
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import (
    Evaluator,
    NotFinite,
    difference,
    resampling_units,
)

Progress = Callable[[int, str], AbstractContextManager[Callable[[str], None]]]
"""Shows how far counted work is, as `command.progress` does."""


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        run: The folder of the run.
        out: The folder to make; nothing is there.
        format: The name of a format.
        selection: The experts to export; `auto` stands for all, as the router weighs
            them.
        dtype: The type of the values; None for the format's usual one.
        bits: The bits a weight to quantise to; None for none.
        max_gap: The most that the export may lose, in nats a token.
        data: The text to measure on; None for the run's own.
        best: Whether to export the save with the lowest validation loss.
    """

    run: RunFolder
    out: Path
    format: str
    selection: Selection = "auto"
    dtype: str | None = None
    bits: int | None = None
    max_gap: float = 0.1
    data: str | None = None
    best: bool = False


def export(request: Request, say: Say, progress: Progress) -> dict[str, Any]:
    """Export a run.

    Args:
        request: The run to export, and how to write it.
        say: Receives a sentence on what is done and noticed.
        progress: Shows how far measuring is.

    Returns:
        The measured losses, their gap in nats a token, the weights of the experts, the
        files, and the commands to type next.

    Raises:
        ConfigError: If the request does not fit the run, or the export loses more than
            it may; nothing has been written then.
    """
    kind = registry.load("export", request.format)
    _check_options(request, kind)
    base, mixture = request.run.load(best=request.best, report=say)
    fixed = merging.is_fixed(mixture, request.selection)
    part, batches = heldout.batches(request.run, base, request.data, say)
    batches, _ = resampling_units(batches)
    if fixed:
        weights = merging.block_weights(mixture, request.selection)
    else:
        weights = _mean_weights(request, base, mixture, batches, say, progress)
    job = Job(
        base=base,
        mixture=mixture,
        adapter=merging.merge(mixture, weights, "stack"),
        name=word(request.run.path.resolve().name),
        dtype=request.dtype or kind.usual_dtype(base),
        bits=request.bits,
    )
    kind.check(job)
    with replacing_dir(request.out) as folder:
        say(f"writing {request.format} ({job.dtype})")
        kind.write(job, folder)
        results = _measured(request, kind, job, folder, batches, progress)
        results |= {"split": part, "fixed": fixed, "weights": _named(mixture, weights)}
        _check_gap(request, results)
        commands = kind.next_commands(job, request.out)
        terms = licence.of_base(base)
        copy_files(base.path, folder, licence.FILES)
        page = card.render(job, kind, results, terms)
        write_text(folder / "README.md", page)
        files = {f.name: f.stat().st_size for f in sorted(folder.iterdir())}
    ending = {"files": files, "licence": terms.sentence, "next": commands}
    return {"out": str(request.out), "format": request.format, **results, **ending}


def _check_options(request: Request, kind: Any) -> None:
    """Refuse what this format cannot write, before the run is loaded."""
    if request.dtype is not None and request.dtype not in kind.DTYPES:
        raise ConfigError(
            f"--dtype {request.dtype}: --format {request.format} writes "
            f"{', '.join(kind.DTYPES)}"
        )
    if request.bits is not None and request.format != "fused":
        raise ConfigError(
            f"--bits is for --format fused alone: leave it out with {request.format}"
        )


def _mean_weights(
    request: Request,
    base: Base,
    mixture: Mixture,
    batches: list[Batch],
    say: Say,
    progress: Progress,
) -> list[list[float]]:
    """Return the router's mean weight of each expert in each block, `[layers][E]`.

    They are means over the text that the router learnt from, so that the text that is
    measured stays unseen.
    """
    if request.data is None:
        _, batches = heldout.batches(request.run, base, None, quiet, router_text=True)
    with progress(len(batches), "batch") as advance:
        read = announced(batches, advance, "mean weights")
        weights = merging.mean_weights(mixture, request.selection, read)
    say(
        Note(
            "the router weighs the experts token by token, which no single model does: "
            "what is exported is their blend with the router's mean weights in each "
            f"block ({_listed(_named(mixture, weights))})"
        )
    )
    return weights


def _named(mixture: Mixture, weights: list[list[float]]) -> dict[str, float]:
    """Return the mean weight over blocks by the expert's name."""
    means = np.mean(weights, axis=0).tolist()
    return dict(zip(mixture.options.names, means, strict=True))


def _listed(named: dict[str, float]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in named.items())


def _measured(
    request: Request,
    kind: Any,
    job: Job,
    folder: Path,
    batches: list[Batch],
    progress: Progress,
) -> dict[str, Any]:
    """Return the losses of the mixture and of what was written, on the same tokens."""
    with progress(2 * len(batches), "batch") as advance:
        read = announced(batches, advance, "mixture")
        before = Evaluator(job.mixture).score(read, "auto")
        with kind.read_back(job, folder) as written:
            after = _score(written, announced(batches, advance, request.format))
    gap = difference(after, before)
    return {
        "dtype": job.dtype if job.bits is None else f"{job.bits} bits",
        "rank": job.adapter.rank,
        "tokens": before.token_count,
        "loss": {"mixture": before.loss, "export": after.loss},
        "gap": gap.mean,
        "ci95": gap.interval,
    }


def _score(mixture: Mixture, batches: Iterable[Batch]) -> Any:
    try:
        return Evaluator(mixture).score(batches, "base")
    except NotFinite as error:
        raise ConfigError(
            f"what was written computes a loss of {error.loss}: nothing is left of it; "
            "choose a wider --dtype"
        ) from error


def _check_gap(request: Request, results: dict[str, Any]) -> None:
    """Refuse an export that loses more than it may."""
    gap, most = results["gap"], request.max_gap
    if gap <= most:
        return
    losses = results["loss"]
    enough = math.ceil(gap * 100) / 100
    fewer = " without --bits," if request.bits is not None else ""
    raise ConfigError(
        f"this {request.format} would lose {gap:.3f} nats a token against the run "
        f"({losses['mixture']:.3f} -> {losses['export']:.3f} on {results['split']}), "
        f"more than --max-gap {most:g}: nothing was written; try again{fewer} with "
        "other --experts (generalist, specialist, or weights such as 0.3,0.7), or "
        f"accept it with --max-gap {enough:g}"
    )
