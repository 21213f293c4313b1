"""Measures what a report tells: one pass over the text for each way to speak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from comigs_mlx.config import to_dict
from comigs_mlx.data.batches import Batch, evaluation_batches
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import load_split
from comigs_mlx.errors import ConfigError
from comigs_mlx.federation import api
from comigs_mlx.messages import Say
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection, usable
from comigs_mlx.options import ExpertOptions
from comigs_mlx.reports import sharing
from comigs_mlx.reports.divergence import by_side, divergence
from comigs_mlx.reports.options import ReportConfig
from comigs_mlx.reports.oracle import OracleGap, oracle_gap
from comigs_mlx.reports.reading import (
    Advance,
    Array,
    BlockEvaluator,
    TextRead,
    read,
    single_experts,
)
from comigs_mlx.reports.report import Compared, Report
from comigs_mlx.runs.description import base_model, expert_options
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.held_out import content_of, data_options
from comigs_mlx.training.evaluation import RESULTS, resampling_units, result_name

Progress = Callable[[int], AbstractContextManager[Advance]]
"""It makes the progress of a number of batches."""

Form = Callable[[Array], Array]
"""It makes the entries that are compared, of weights `[L, E]`."""


@dataclass(frozen=True)
class Text:
    """A text as it is measured.

    Attributes:
        batches: All its tokens, once; where there is one document only, its windows
            stand for documents.
        over: The units that intervals are drawn over: `documents` or `windows`.
    """

    batches: list[Batch]
    over: str


@dataclass(frozen=True)
class Prepared:
    """What is measured: a run in memory, and texts.

    Attributes:
        folder: The folder of the run.
        base: The base model in memory.
        mixture: The run's mixture on it.
        data: The name of the text, as it was given.
        own: The text that the report is about.
        against: Another text; None where there is none to compare with.
        other: Another run; None where there is none to compare with.
    """

    folder: RunFolder
    base: Base
    mixture: Mixture
    data: str
    own: Text
    against: Text | None
    other: RunFolder | None


def measure(config: ReportConfig, say: Say, progress: Progress) -> Report:
    """Measure all that a report tells.

    Args:
        config: The run, the texts and the options that were asked for.
        say: Receives a sentence before each step that takes time, and notes.
        progress: It is asked once, with the number of batches.

    Raises:
        ComigsError: If run, text or the other run cannot be read, or do not fit.
    """
    ready = _prepared(config, say)
    mixture, own = ready.mixture, ready.own
    options, layers = mixture.options, mixture.layers
    rounds, notes = sharing.kept(ready.folder.path, mixture)
    selections = _selections(options)
    passes = len(selections) + sharing.passes(selections, rounds)
    passes += ready.other is not None
    batches = passes * len(own.batches)
    batches += len(ready.against.batches) if ready.against else 0
    with progress(batches) as advance:
        evaluator = BlockEvaluator(mixture)
        found = read(evaluator, own.batches, selections, advance)
        parts = [*_against_text(config, ready, evaluator, found, advance)]
        known = {n: found.score(n) for n in RESULTS.values() if n in selections}
        labels = api.kept_as(ready.folder.path)
        told = (known, rounds, labels, notes, advance)
        shared = sharing.measured(mixture, own.batches, *told)
        parts += _against_run(config, ready, found, advance)
    return Report(
        run=config.run,
        model=ready.base.id,
        data=ready.data,
        split=config.split,
        tokens=len(found.documents),
        units=len(known["base"].losses),
        interval_over=own.over,
        layers=layers,
        sharing=shared,
        oracle=_oracle(found, options),
        divergence=parts,
    )


def _prepared(config: ReportConfig, say: Say) -> Prepared:
    """Load run and texts, after all that can be told without the model."""
    folder = RunFolder(config.run)
    folder.check_exists()
    experts = expert_options(folder.read_info()).experts
    if config.against is not None and experts < 2:
        raise ConfigError(
            f"{config.run} has one expert, so nothing is routed: leave out --against"
        )
    other = _other_run(config, folder)
    data = data_options(folder.config, to_dict(config))
    tell = in_sentences(say)
    loaded = load_split(data["data"], config.split, tell, say, data["reading"])
    there = None
    if config.against is not None:
        there = load_split(config.against, "all", tell, say, data["reading"])
    base, mixture = folder.load(best=config.best, report=say)
    own = _text(base, loaded, data, config.split, say)
    against = None if there is None else _text(base, there, data, "--against", say)
    return Prepared(folder, base, mixture, str(data["data"]), own, against, other)


def _text(
    base: Base,
    loaded: tuple[Sequence[Any], str],
    data: dict[str, Any],
    name: str,
    say: Say,
) -> Text:
    """Make the batches of a text, and say what was noticed in it."""
    content = content_of(*loaded, base, data, name, say)
    sizes = (data["seq_len"], data["batch_size"])
    return Text(*resampling_units(list(evaluation_batches(content, *sizes))))


def _other_run(config: ReportConfig, folder: RunFolder) -> RunFolder | None:
    """Open the run to compare with, and check that it can be compared.

    Raises:
        RunError: If it is not there, or damaged.
        ConfigError: If it is on another base model, or in other blocks.
    """
    if config.against_run is None:
        return None
    other = RunFolder(config.against_run)
    other.check_exists()
    infos = [folder.read_info(), other.read_info()]
    if len({base_model(info)[1] for info in infos}) > 1:
        raise ConfigError(
            f"--against-run {config.against_run} is on another base model than "
            f"{config.run}: their blocks cannot be compared"
        )
    shapes = [expert_options(info) for info in infos]
    if len({shape.num_layers for shape in shapes}) > 1:
        raise ConfigError(
            f"--against-run {config.against_run} has experts in other blocks than "
            f"{config.run} (--num-layers): they cannot be compared"
        )
    for name, shape in zip([config.run, config.against_run], shapes, strict=True):
        if shape.experts < 2:
            raise ConfigError(
                f"{name} has one expert, so nothing is routed: leave out --against-run"
            )
    return other


def _selections(options: ExpertOptions) -> dict[str, Selection]:
    """Map names to all that is measured once: the usual four, and each expert alone."""
    wanted = [name for name in RESULTS if name in usable(options)]
    each = [*wanted, *single_experts(options).values()]
    return {result_name(selection): selection for selection in each}


def _oracle(found: TextRead, options: ExpertOptions) -> OracleGap | None:
    """Compute the oracle gap; a run with one expert has none."""
    if options.experts < 2:
        return None
    alone = single_experts(options).items()
    experts = {name: found.losses[result_name(each)] for name, each in alone}
    sides = None
    if options.generalists and options.specialists:
        sides = found.losses["generalist"], found.losses["specialist"]
    mixture, weights = found.losses["mixture"], found.weights
    return oracle_gap(mixture, experts, sides, weights, options.generalists)


def _against_text(
    config: ReportConfig,
    ready: Prepared,
    evaluator: BlockEvaluator,
    own: TextRead,
    advance: Advance,
) -> Iterator[Compared]:
    """Compare the run's routing of its text with that of another text."""
    if ready.against is None or config.against is None:
        return
    there = read(evaluator, ready.against.batches, {"mixture": "auto"}, advance)
    names = ready.mixture.options.names
    yield _compared("text", config.against, names, own, there, _as_it_is, _as_it_is)


def _against_run(
    config: ReportConfig, ready: Prepared, own: TextRead, advance: Advance
) -> Iterator[Compared]:
    """Compare the routing of the text with that of another run, side by side.

    The run's mixture is detached for this. Where the runs have as many experts, these
    are compared one by one, else the sums of generalists and of specialists.
    """
    if ready.other is None or config.against_run is None:
        return
    mine, best = ready.mixture.options, config.best
    ready.mixture.detach()
    options = expert_options(ready.other.read_info())
    mixture = Mixture(ready.base.model, options)
    ready.other.load_values(mixture, best)
    evaluator = BlockEvaluator(mixture)
    there = read(evaluator, ready.own.batches, {"mixture": "auto"}, advance)
    names, own_form, other_form = mine.names, _as_it_is, _as_it_is
    if mixture.options.names != names:
        names = ["generalists", "specialists"]
        own_form = partial(by_side, generalists=mine.generalists)
        other_form = partial(by_side, generalists=mixture.options.generalists)
    forms = own_form, other_form
    yield _compared("run", config.against_run, names, own, there, *forms)


def _as_it_is(weights: Array) -> Array:
    return weights


def _compared(
    kind: str,
    name: str,
    experts: Sequence[str],
    own: TextRead,
    there: TextRead,
    own_form: Form,
    other_form: Form,
) -> Compared:
    """Compare two readings, each in the form that both have."""
    one, other = own_form(own.by_block), other_form(there.by_block)
    within = None
    if own.halves is not None:
        within = divergence(*(own_form(half) for half in own.halves))
    return Compared(
        kind=kind,
        name=name,
        tokens=(len(own.documents), len(there.documents)),
        experts=list(experts),
        weights=[one.tolist(), other.tolist()],
        found=divergence(one, other),
        within=within,
    )
