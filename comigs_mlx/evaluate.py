"""`python -m comigs_mlx.evaluate`: what a run is worth on text it has not seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from comigs_mlx import command
from comigs_mlx.config import option, parse, read_yaml
from comigs_mlx.options import BATCH, WINDOW, DataOptions, parse_experts

if TYPE_CHECKING:
    from comigs_mlx.training.evaluation import Score

RESULTS = {
    "base": "base",
    "generalist": "generalist",
    "specialist": "specialist",
    "auto": "mixture",
}
"""Expert selection -> its name in the results."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure loss and perplexity on held-out text: of the base model alone, of the
    generalists, of the specialists, and of the mixture.

    Every token but the first is predicted once, in consecutive windows without context
    from the one before. Loss is in nats per token; the interval is a 95 % bootstrap of
    the perplexity over documents.

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
    from comigs_mlx.data.splits import load_split
    from comigs_mlx.model.selection import allowed
    from comigs_mlx.runs.folder import RunFolder
    from comigs_mlx.training.evaluation import Evaluator

    folder = RunFolder(config.run)
    folder.check_exists()
    data = _data_options(config, folder.config)
    samples, kind = load_split(data["data"], config.split)
    base, mixture = folder.load(best=config.best, report=command.say)
    usable = [
        name for name in ("generalist", "specialist") if allowed(name, mixture.options)
    ]
    selections = [wanted] if wanted is not None else ["base", *usable, "auto"]
    batches = _batches(samples, kind, base.tokenizer, data)
    evaluator, scores = Evaluator(mixture), {}
    with command.progress(len(batches) * len(selections), "batch") as advance:
        for selection in selections:
            name = RESULTS.get(str(selection), "mixture")
            watched = _watched(batches, lambda: advance(name))  # noqa: B023
            scores[name] = evaluator.score(watched, selection)
    results = summary(config.split, scores, mixture.options.names)
    command.show(json.dumps(results) if config.json else table(results))


def _batches(samples: Any, kind: str, tokenizer: Any, data: dict[str, Any]) -> Any:
    from comigs_mlx.data.batches import evaluation_batches
    from comigs_mlx.data.cache import TokenCache
    from comigs_mlx.data.content import tokenised

    content, _ = tokenised(
        samples,
        kind,
        tokenizer,
        seq_len=data["seq_len"],
        mask_prompt=data["mask_prompt"],
        cache=TokenCache.of_user(command.say) if data["token_cache"] else None,
        say=command.say,
    )
    return list(evaluation_batches(content, data["seq_len"], data["batch_size"]))


def _data_options(config: EvaluateConfig, saved: Path) -> dict[str, Any]:
    """Data, batch size and so on: as given, else as in the run, else the defaults."""
    defaults = DataOptions()
    names = ("data", "seq_len", "batch_size", "mask_prompt", "token_cache")
    values = {name: getattr(defaults, name) for name in names}
    if saved.is_file():
        run = read_yaml(saved)
        values |= {name: run[name] for name in names if name in run}
    given = {name: getattr(config, name, None) for name in names}
    return values | {name: value for name, value in given.items() if value is not None}


def _watched(batches: Sequence[Any], advance: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch
        advance()


def summary(
    split: str, scores: dict[str, Score], experts: Sequence[str]
) -> dict[str, Any]:
    """The public form of the results; `expert_share` is the mixture's."""
    one = next(iter(scores.values()))
    routed = scores.get("mixture", one)
    return {
        "split": split,
        "tokens": one.token_count,
        "documents": len(one.losses),
        "results": {
            name: {
                "loss": score.loss,
                "perplexity": score.perplexity,
                "ci95": list(score.interval()),
            }
            for name, score in scores.items()
        },
        "expert_share": dict(zip(experts, routed.share, strict=True)),
    }


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = [
        f"{results['split']}: {results['documents']} documents, "
        f"{results['tokens']} tokens predicted",
        f"{'':12}{'loss':>8}{'perplexity':>12}   95 % interval",
    ]
    for name, found in results["results"].items():
        low, high = found["ci95"]
        lines.append(
            f"{name:12}{found['loss']:8.4f}{found['perplexity']:12.2f}"
            f"   {low:.2f} to {high:.2f}"
        )
    shares = (f"{name} {share:.1%}" for name, share in results["expert_share"].items())
    return "\n".join([*lines, f"expert share: {', '.join(shares)}"])


if __name__ == "__main__":
    command.run(main)
