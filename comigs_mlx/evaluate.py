"""`python -m comigs_mlx.evaluate`: what a run is worth on text it has not seen."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from comigs_mlx import command
from comigs_mlx.config import group, option, parse, to_dict
from comigs_mlx.errors import ConfigError
from comigs_mlx.options import BATCH, WINDOW, ReadingGiven, parse_experts

if TYPE_CHECKING:
    from comigs_mlx.data.batches import Batch
    from comigs_mlx.inference.settings import Settings
    from comigs_mlx.model.base import Base
    from comigs_mlx.runs.place import Place
    from comigs_mlx.training.evaluation import Evaluator, Score
    from comigs_mlx.training.parallel import Group


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure loss and perplexity on held-out text: of the base model alone, of the
    generalists, of the specialists, and of the mixture.

    Every token but the first is predicted once, in consecutive windows without context
    from the one before; conversations begin a window each. Loss is in nats per token;
    the interval is a 95 % bootstrap of the perplexity over documents, where there are
    at least two.

    --lean X adds X to the specialists' logits of the mixture; --calibrate-lean looks
    for the X that serves best on the validation text, and keeps it in the run for
    generate and the app. --calibrate-prior does the same for generate --prior, which
    belongs to a prompt: it does not change what is measured here.

      python -m comigs_mlx.evaluate --run runs/notes
      python -m comigs_mlx.evaluate --run runs/notes --data ~/Other --split all --json
      python -m comigs_mlx.evaluate --run runs/notes --calibrate-lean
    """

    run: str = option("", "folder of the run", "DIR")
    data: str | None = option(
        None,
        "text to measure on, as for train (default: the run's own)",
        "PATH|DATASET",
    )
    split: Literal["train", "valid", "test", "all"] = option(
        "test", "part of the text; all takes every document"
    )
    experts: str | None = option(
        None,
        "measure only this: auto, base, generalist, specialist, or one weight an "
        "expert, such as 0.3,0.7 (default: all four)",
        "WHO",
    )
    lean: float | None = option(
        None,
        "add this to the specialists' logits of the mixture (default: what is kept in "
        "the run, else 0)",
        "X",
    )
    calibrate_lean: bool = option(
        False,
        "first find the --lean that serves best on validation text, and keep it in the "
        "run",
    )
    calibrate_prior: bool = option(
        False,
        "first find how far a prompt that is like the training text should lean to the "
        "specialists (generate --prior), and keep it in the run",
    )
    steer: str | None = option(
        None,
        "steer the mixture by this text: more of the experts that are busier on it "
        "than on other text, in the middle blocks",
        "FILE",
    )
    steer_by: float = option(
        1.0, "what --steer adds to their logits; below 0 steers away from it", "X"
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    batch_size: int | None = option(
        None, "sequences in a batch (default: the run's)", "N", BATCH
    )
    seq_len: int | None = option(
        None, "tokens in a window (default: the run's)", "TOKENS", WINDOW
    )
    token_cache: bool | None = option(
        None, "keep the text's tokens for the next time (default: as the run)"
    )
    json: bool = option(False, "print one JSON object instead of the table")
    reading: ReadingGiven = group(ReadingGiven)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        for name in ("batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"--{name.replace('_', '-')} {value} must be at least 1"
        yield from self._tilt_problems()

    def _tilt_problems(self) -> Iterator[str]:
        if self.lean is not None and self.calibrate_lean:
            yield "--lean and --calibrate-lean exclude each other: drop one"
        for name in ("calibrate_lean", "calibrate_prior"):
            if getattr(self, name) and self.experts not in (None, "auto"):
                yield f"--{name.replace('_', '-')} needs the mixture: drop --experts"
        from comigs_mlx.inference.settings import steer_problems

        yield from steer_problems(self.steer, self.steer_by, self.experts)
        with contextlib.suppress(ConfigError):  # of --experts: said elsewhere
            yield from self.settings().problems(lambda field: f"--{field}")

    def settings(self) -> Settings:
        """What is asked for as the engine takes it: the lean is the mixture's.

        Raises:
            ConfigError: If --experts names no experts.
        """
        from comigs_mlx.inference.settings import Settings

        wanted = "auto" if self.experts is None else parse_experts(self.experts)
        return Settings(selection=wanted, lean=self.lean)


def main(argv: Sequence[str] | None = None) -> None:
    """Load run and text, measure, print.

    Of several processes that a launcher has started, one does; the others help it.
    """
    from comigs_mlx.training import parallel

    with parallel.opened() as ranks:
        if ranks.leader:
            _measured(argv, ranks)
        else:
            from comigs_mlx.runs import following

            following.follow(ranks)


def _measured(argv: Sequence[str] | None, ranks: Group) -> None:
    """Measure, with the others' help, and print."""
    config = parse(EvaluateConfig, "comigs_mlx.evaluate", argv)
    wanted = None if config.experts is None else parse_experts(config.experts)
    from comigs_mlx.data.batches import announced
    from comigs_mlx.inference import lean, steering, tilts
    from comigs_mlx.model.selection import check, usable
    from comigs_mlx.runs import following
    from comigs_mlx.runs.folder import RunFolder
    from comigs_mlx.runs.held_out import data_options
    from comigs_mlx.training.evaluation import RESULTS, Evaluator, result_name

    folder = RunFolder(config.run)
    folder.check_exists()
    data = data_options(folder.config, to_dict(config))
    steering_text = None if config.steer is None else steering.read(config.steer)
    text = _samples(data, config.split)
    calibrating = config.calibrate_lean or config.calibrate_prior
    validation = _samples(data, "valid") if calibrating else None
    training = _samples(data, "train") if config.calibrate_prior else None
    base, mixture = folder.load(best=config.best, report=command.say)
    everybody = [name for name in RESULTS if name in usable(mixture.options)]
    selections = everybody if wanted is None else [wanted]
    for selection in selections:
        check(selection, mixture.options)
    tilts.of_settings(mixture, config.settings())  # refused before anything is measured
    batches, parts = _batches(*text, base, data, config.split)
    if (reason := ranks.needs(data["batch_size"])) is not None:
        raise ConfigError(reason)
    following.lead_evaluation(ranks, folder.read_info())
    evaluator, scores = Evaluator(mixture, ranks), {}
    heldout: list[Batch] = []
    if validation is not None:
        heldout, _ = _batches(*validation, base, data, "valid")
    if config.calibrate_lean:
        _calibrate_lean(folder, evaluator, heldout)
    values = partial(lean.values_digest, mixture)
    settings = lean.with_kept(config.settings(), folder, values, command.say)
    if training is not None:
        own = _sampled(*training, base, data)
        _calibrate_prior(folder, base, evaluator, own, heldout, settings)
    if steering_text is not None:
        step = command.Steps("comparing texts", "windows")
        asked = (steering_text, config.steer_by, str(config.steer), command.say, step)
        settings = steering.steered(settings, base, mixture, *asked)
    tilt = tilts.of_settings(mixture, settings)
    with command.progress(len(batches) * len(selections), "batch") as advance:
        for selection in selections:
            name = result_name(selection)
            watched = announced(batches, advance, name)
            added = tilt if selection == "auto" else None
            scores[name] = evaluator.score(watched, selection, added)
    results = summary(config.split, scores, mixture.options.names) | parts
    results |= {"lean": settings.lean} if settings.lean else {}
    command.show(
        json.dumps(results, allow_nan=False) if config.json else table(results)
    )


def _samples(data: dict[str, Any], split: str) -> tuple[Sequence[Any], str]:
    from comigs_mlx.data.reading_progress import in_sentences
    from comigs_mlx.data.splits import load_split

    told = (in_sentences(command.say), command.say, data["reading"])
    return load_split(data["data"], split, *told)


def _batches(
    samples: Sequence[Any], kind: str, base: Base, data: dict[str, Any], split: str
) -> tuple[list[Batch], dict[str, Any]]:
    """All batches of one split, and what the results say of its conversations."""
    from comigs_mlx.data.batches import evaluation_batches
    from comigs_mlx.data.tokens import TokenStream
    from comigs_mlx.runs.held_out import tokens_of
    from comigs_mlx.training.fitting import check_texts

    content, notes = tokens_of(samples, kind, base, data, split, command.say)
    parts = {} if isinstance(content, TokenStream) else _parts(samples, content, data)
    fits = check_texts(base, {split: content}, data["seq_len"])
    for note in [*notes, *_parts_note(parts, data), *fits]:
        command.say(f"note: {split}: {note}")
    sizes = (data["seq_len"], data["batch_size"])
    return list(evaluation_batches(content, *sizes)), parts


def _sampled(
    samples: Sequence[Any], kind: str, base: Base, data: dict[str, Any]
) -> list[Batch]:
    """Some windows of the training text, from all parts of it."""
    from comigs_mlx.data.batches import sampled_batches
    from comigs_mlx.inference.prior import TRAINING_WINDOWS
    from comigs_mlx.runs.held_out import tokens_of

    content, _ = tokens_of(samples, kind, base, data, "train", command.say)
    count = -(-TRAINING_WINDOWS // data["batch_size"])
    return sampled_batches(content, data["seq_len"], data["batch_size"], count)


def _calibrate_lean(folder: Place, evaluator: Evaluator, batches: list[Batch]) -> None:
    """Find the lean that serves best on validation text, and keep it in the run."""
    from comigs_mlx.inference import lean
    from comigs_mlx.inference.calibration import find_lean

    with command.progress(len(batches) * lean.MOST_TRIALS, "batch") as advance:
        kept, trials = find_lean(
            folder, evaluator, batches, lambda value: advance(f"lean {value:+g}")
        )
    for trial in sorted(trials, key=lambda trial: trial.lean):
        command.say(f"lean {trial.lean:+.2f}: valid loss {trial.loss:.4f}")
    command.say(f"kept lean {kept.lean:+g} in {folder.path / lean.FILE}")


def _calibrate_prior(
    folder: Place,
    base: Base,
    evaluator: Evaluator,
    own: list[Batch],
    heldout: list[Batch],
    settings: Settings,
) -> None:
    """Find what prompts are compared with, and by how much they lean, and keep it."""
    from comigs_mlx.inference import prior, tilts, windows

    mixture = evaluator.mixture
    rows = tilts.lean_rows(mixture, settings.lean or 0.0)
    tilts.lean_rows(mixture, 1.0)  # refused before the first pass
    command.say("comparing the training text with other text")
    step = command.Steps("comparing texts", "windows")
    other = prior.of_windows(mixture, windows.generic(base), step)
    step = command.Steps("comparing texts", "batches")
    centres = prior.Centres(prior.of_batches(mixture, own, step), other)
    parts = prior.PromptWindows(evaluator, centres, heldout)
    total = len(parts) * prior.MOST_TRIALS
    with command.progress(total, "batch") as advance:
        trials, tokens = prior.search(parts, rows, lambda: advance("prior"))
    for trial in sorted(trials, key=lambda trial: trial.lean):
        command.say(f"prior {trial.lean:.4g}: valid loss {trial.loss:.4f}")
    kept = prior.keep(folder, mixture, centres, trials, tokens)
    command.say(f"kept prior {kept.scale:.4g} in {folder.path / prior.FILE}")


def _parts(
    samples: Sequence[Any], content: Sequence[Any], data: dict[str, Any]
) -> dict[str, Any]:
    """How many conversations are measured in several windows, and how many are not."""
    long = sum(len(sample.tokens) - 1 > data["seq_len"] for sample in content)
    left_out = len(samples) - len(content)
    return {"conversations": {"in_windows": long, "left_out": left_out}}


def _parts_note(parts: dict[str, Any], data: dict[str, Any]) -> Iterator[str]:
    count = parts.get("conversations", {}).get("in_windows", 0)
    if count:
        yield (
            f"{count} conversations are longer than --seq-len {data['seq_len']}: "
            "measured in windows without context from the one before; raise --seq-len "
            "to measure them at once"
        )


def summary(
    split: str, scores: dict[str, Score], experts: Sequence[str]
) -> dict[str, Any]:
    """The public form of the results; `expert_share` is the mixture's.

    `perplexity` is null where the loss is too large for one, and `ci95` where one
    document leaves nothing to resample.
    """
    one = next(iter(scores.values()))
    routed = scores.get("mixture", one)
    return {
        "split": split,
        "tokens": one.token_count,
        "documents": len(one.losses),
        "results": {
            name: {
                "loss": score.loss,
                "perplexity": _finite(score.perplexity),
                "ci95": _interval(score),
            }
            for name, score in scores.items()
        },
        "expert_share": dict(zip(experts, routed.share, strict=True)),
    }


def _interval(score: Score) -> list[float | None] | None:
    if len(score.losses) < 2:
        return None
    return [_finite(end) for end in score.interval()]


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = [
        f"{results['split']}: {results['documents']} documents, "
        f"{results['tokens']} tokens predicted",
        f"{'':12}{'loss':>8}{'perplexity':>12}   95 % interval",
    ]
    for name, found in results["results"].items():
        interval = "one document: none"
        if found["ci95"] is not None:
            interval = " to ".join(map(_shown, found["ci95"]))
        perplexity = _shown(found["perplexity"])
        lines.append(f"{name:12}{found['loss']:8.4f}{perplexity:>12}   {interval}")
    if lean := results.get("lean"):
        lines.append(f"the mixture leans by {lean:+g}")
    shares = (f"{name} {share:.1%}" for name, share in results["expert_share"].items())
    return "\n".join([*lines, f"expert share: {', '.join(shares)}"])


def _shown(value: float | None) -> str:
    return "above 1e304" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    command.run(main)
