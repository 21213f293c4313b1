"""`python -m comigs_mlx.evaluate`: what a run is worth on text it has not seen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.options import BATCH, WINDOW, parse_experts

if TYPE_CHECKING:
    from comigs_mlx.training.evaluation import Score


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure loss and perplexity on held-out text: of the base model alone, of the
    generalists, of the specialists, and of the mixture.

    Every token but the first is predicted once, in consecutive windows without context
    from the one before; conversations begin a window each. Loss is in nats per token;
    the interval is a 95 % bootstrap of the perplexity over documents, where there are
    at least two.

      python -m comigs_mlx.evaluate --run runs/notes
      python -m comigs_mlx.evaluate --run runs/notes --data ~/Other --split all --json
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

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        for name in ("batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"--{name.replace('_', '-')} {value} must be at least 1"


def main(argv: Sequence[str] | None = None) -> None:
    """Load run and text, measure, print."""
    config = parse(EvaluateConfig, "comigs_mlx.evaluate", argv)
    wanted = None if config.experts is None else parse_experts(config.experts)
    from comigs_mlx.data.batches import evaluation_batches
    from comigs_mlx.data.reading_progress import in_sentences
    from comigs_mlx.data.splits import load_split
    from comigs_mlx.data.tokens import TokenStream
    from comigs_mlx.model.selection import check, usable
    from comigs_mlx.runs.folder import RunFolder
    from comigs_mlx.runs.held_out import data_options, tokens_of
    from comigs_mlx.training.evaluation import RESULTS, Evaluator, result_name
    from comigs_mlx.training.fitting import check_texts

    folder = RunFolder(config.run)
    folder.check_exists()
    data = data_options(folder.config, vars(config))
    samples, kind = load_split(
        data["data"], config.split, in_sentences(command.say), command.say
    )
    base, mixture = folder.load(best=config.best, report=command.say)
    everybody = [name for name in RESULTS if name in usable(mixture.options)]
    selections = everybody if wanted is None else [wanted]
    for selection in selections:
        check(selection, mixture.options)
    content, notes = tokens_of(samples, kind, base, data, config.split, command.say)
    parts = {} if isinstance(content, TokenStream) else _parts(samples, content, data)
    fits = check_texts(base, {config.split: content}, data["seq_len"])
    for note in [*notes, *_parts_note(parts, data), *fits]:
        command.say(f"note: {config.split}: {note}")
    sizes = (data["seq_len"], data["batch_size"])
    batches = list(evaluation_batches(content, *sizes))
    evaluator, scores = Evaluator(mixture), {}
    with command.progress(len(batches) * len(selections), "batch") as advance:
        for selection in selections:
            name = result_name(selection)
            watched = _watched(batches, lambda: advance(name))  # noqa: B023
            scores[name] = evaluator.score(watched, selection)
    results = summary(config.split, scores, mixture.options.names) | parts
    command.show(
        json.dumps(results, allow_nan=False) if config.json else table(results)
    )


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


def _watched(batches: Sequence[Any], advance: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch
        advance()


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
    shares = (f"{name} {share:.1%}" for name, share in results["expert_share"].items())
    return "\n".join([*lines, f"expert share: {', '.join(shares)}"])


def _shown(value: float | None) -> str:
    return "above 1e304" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    command.run(main)
