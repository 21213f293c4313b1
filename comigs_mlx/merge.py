"""`python -m comigs_mlx.merge`: a run as one plain mlx-lm adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comigs_mlx import command
from comigs_mlx.config import check_new, option, parse
from comigs_mlx.options import parse_experts


@dataclass(frozen=True)
class MergeConfig:
    """Merge a run's experts into one plain adapter, which mlx-lm loads as it is.

    That needs weights that do not depend on the token: those of a run trained with
    --router-type static, or fixed ones. The mixture mixes the outputs of whole MLPs and
    the adapter has one pair a linear, so the two differ a little: the loss of the run,
    of both ways to merge it, and the differences are measured on the run's held-out
    text and printed. An adapter holds private specialists: it is for this device.

      python -m comigs_mlx.merge --run runs/notes --out adapters/notes
      python -m comigs_mlx.merge --run runs/notes --out adapters/notes --how mean
      python -m comigs_mlx.merge --run runs/notes --out adapters/half --experts 0.5,0.5
      mlx_lm.generate --model ID --adapter-path adapters/notes --prompt "..."
    """

    run: str = option("", "folder of the run", "DIR")
    out: str = option("", "folder of the adapter, which is made", "DIR")
    how: Literal["mean", "stack"] = option(
        "stack",
        "stack: exact for each linear alone, of the rank of all experts together; "
        "mean: of the rank of one expert, with products between experts in it",
    )
    experts: str = option(
        "auto",
        "whom to merge: auto (a static router's weights), generalist, specialist, or "
        "one weight an expert, such as 0.3,0.7",
        "WHO",
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    data: str | None = option(
        None, "text to measure on (default: the run's own test part)", "PATH|DATASET"
    )
    measure: bool = option(True, "measure the loss before and after")
    json: bool = option(False, "print one JSON object instead of lines")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if not self.out:
            yield "--out DIR is missing: the folder of the adapter"


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run, merge it, measure, write, print."""
    config = parse(MergeConfig, "comigs_mlx.merge", argv)
    selection = parse_experts(config.experts)
    out = Path(config.out).expanduser()
    check_new(out)
    from comigs_mlx.exports import merging
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    folder.check_exists()
    base, mixture = folder.load(best=config.best, report=command.say)
    weights = merging.block_weights(mixture, selection)
    merged: dict[str, Any] = {
        how: merging.merge(mixture, weights, how) for how in merging.HOWS
    }
    results: dict[str, Any] = {}
    if config.measure:
        results = _measured(config, folder, base, mixture, merged)
    adapter = merged[config.how]
    merging.write(out, mixture, base.id, adapter)
    results |= {"out": str(out), "how": config.how, "rank": adapter.rank}
    command.show(json.dumps(results) if config.json else lines(results))


def _measured(
    config: MergeConfig, folder: Any, base: Any, mixture: Any, merged: dict[str, Any]
) -> dict[str, Any]:
    """The loss of the mixture and of each way to merge it, on the same tokens."""
    from comigs_mlx.data.batches import announced
    from comigs_mlx.exports import heldout, merging
    from comigs_mlx.training.evaluation import Evaluator

    part, batches = heldout.batches(folder, base, config.data, command.say)
    with command.progress(len(batches) * (1 + len(merged)), "batch") as advance:
        selection = parse_experts(config.experts)
        score = Evaluator(mixture).score(
            announced(batches, advance, "mixture"), selection
        )
        losses = {"mixture": score.loss}
        for how, adapter in merged.items():
            with merging.in_place(mixture, adapter):
                read = announced(batches, advance, how)
                losses[how] = Evaluator(mixture).score(read, "base").loss
    return {"split": part, "tokens": score.token_count, "loss": losses}


def lines(results: dict[str, Any]) -> str:
    """The results for people."""
    told = []
    if "loss" in results:
        losses = results["loss"]
        told.append(f"{results['split']}: {results['tokens']} tokens predicted")
        told.append(f"{'mixture':10}loss {losses['mixture']:.4f}")
        for how in [name for name in losses if name != "mixture"]:
            difference = losses[how] - losses["mixture"]
            told.append(f"{how:10}loss {losses[how]:.4f}  {difference:+.4f}")
    rank = f"{results['how']}, rank {results['rank']}"
    return "\n".join([*told, f"{results['out']}: one adapter ({rank})"])


if __name__ == "__main__":
    command.run(main)
