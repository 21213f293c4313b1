"""`python -m comigs_mlx.forget`: a run's specialist unlearns documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import option, parse

if TYPE_CHECKING:
    from comigs_mlx.lifecycle.forgetting import Texts
    from comigs_mlx.model.base import Base
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.options import TrainConfig
    from comigs_mlx.runs.folder import RunFolder

NO_PROOF = (
    "a higher loss is no proof of removal: what was learnt may still be drawn out in "
    "other ways; --retrain learns the specialist anew without the documents"
)
GENERALIST = (
    "the generalist is unchanged: what it has learnt of the documents stays in it, and "
    "what was contributed of it cannot be recalled"
)
KEPT = (
    "the run as it was, which knows the documents, is kept in {run}/before for --undo: "
    "remove that folder once you are sure"
)
WORSE = (
    "the remaining text got worse by more than 1 %: --undo brings the run back, and a "
    "lower --learning-rate then changes less"
)
TEXT = "remove the documents from the run's own text, or --resume learns them again"


@dataclass(frozen=True)
class ForgetConfig:
    """Let a run's specialist forget documents that it has learnt.

    The specialist and block that the documents use most unlearn them, with that block's
    router, until the documents' loss is the generalist's alone; nothing else changes.
    That is fast, and no proof of removal. --retrain is the clean way: specialists and
    routers are learnt anew without the documents, from the first step on. Neither
    changes a generalist: a contribution that was made with the documents cannot be
    recalled.

      python -m comigs_mlx.forget --run runs/notes --data old-diary.txt
      python -m comigs_mlx.forget --run runs/notes --data old-diary.txt --retrain
      python -m comigs_mlx.forget --run runs/notes --undo
    """

    run: str = option("", "folder of the run", "DIR")
    data: str = option("", "the documents to forget, as for train", "PATH|DATASET")
    retrain: bool = option(
        False, "learn specialists and routers anew without the documents"
    )
    steps: int | None = option(
        None, "most steps to unlearn in (default: 200); with --retrain: the run's", "N"
    )
    learning_rate: float = option(1e-3, "of unlearning", "LR")
    undo: bool = option(False, "take the run's last change by forget back")
    force: bool = option(False, "with --undo: also if steps trained since are lost")
    json: bool = option(False, "print one JSON object instead of lines")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if not self.data and not self.undo:
            yield "--data PATH is missing: the documents to forget"
        if self.undo and (self.data or self.retrain):
            yield "--undo goes without --data and --retrain"
        if self.steps is not None and self.steps < 1:
            yield f"--steps {self.steps} must be at least 1"
        if self.learning_rate <= 0:
            yield f"--learning-rate {self.learning_rate} must be a number above 0"


def main(argv: Sequence[str] | None = None) -> None:
    """Forget and tell what came of it, or take it back."""
    config = parse(ForgetConfig, "comigs_mlx.forget", argv)
    from comigs_mlx.lifecycle import forgetting
    from comigs_mlx.lifecycle.rewriting import check_saved
    from comigs_mlx.lifecycle.undoing import undo
    from comigs_mlx.runs.folder import RunFolder
    from comigs_mlx.runs.told import telling

    folder = RunFolder(config.run)
    if config.undo:
        command.show(undo(folder, "forget", config.force))
        return
    with telling(command.say, command.explain) as say:
        check_saved(folder)
        own = folder.read_config()
        with folder.in_use():
            base, mixture = folder.load(report=say)
            forgetting.check_forgettable(mixture)
            texts = forgetting.read_texts(own, base, config.data, say)
            say(f"of the run's training text {texts.found} documents are among them")
            forget = _retrained if config.retrain else _unlearnt
            results = forget(config, own, folder, base, mixture, texts)
    command.show(json.dumps(results) if config.json else lines(results, config))


def _unlearnt(
    config: ForgetConfig,
    own: TrainConfig,
    folder: RunFolder,
    base: Base,
    mixture: Mixture,
    texts: Texts,
) -> dict[str, Any]:
    """Let the target forget, and write the run; what came of it."""
    from comigs_mlx.lifecycle import forgetting

    unlearning = forgetting.Unlearning(mixture, texts, own, config.learning_rate)
    before, steps = unlearning.losses(), config.steps or 200
    made = 0
    with command.progress(steps, "step") as advance:
        for loss in unlearning.run(steps):
            made += 1
            advance(f"documents' loss {loss:.4f}, until {unlearning.goal:.4f}")
    target = unlearning.target
    expert = mixture.options.names[mixture.options.generalists + target.specialist]
    results = _results(before, unlearning.losses(), unlearning.goal, made)
    if made:
        what = f"{expert} in block {target.layer} forgot {config.data}"
        valid = forgetting.valid_loss(mixture, texts, own)
        forgetting.write(folder, base, mixture, valid, what)
    return {**results, "expert": expert, "block": target.layer}


def _retrained(
    config: ForgetConfig,
    own: TrainConfig,
    folder: RunFolder,
    base: Base,
    mixture: Mixture,
    texts: Texts,
) -> dict[str, Any]:
    """Learn the specialists anew, and write the run; what came of it."""
    from comigs_mlx.lifecycle import forgetting

    measuring = forgetting.Unlearning(mixture, texts, own, config.learning_rate)
    before, goal = measuring.losses(), measuring.goal
    steps = config.steps or own.training.steps
    retraining = forgetting.Retraining(mixture, texts, own, command.say, steps)
    trainer, mixture = retraining.trainer, retraining.mixture
    with command.progress(trainer.steps_left, "step") as advance:
        for step in retraining.run():
            advance(f"{step.level} loss {step.loss:.3f}")
    valid = forgetting.valid_loss(mixture, texts, own)
    what = f"specialists learnt anew without {config.data}"
    forgetting.write(folder, base, mixture, valid, what)
    after = forgetting.Unlearning(mixture, texts, own, config.learning_rate).losses()
    return _results(before, after, goal, trainer.position.step)


def _results(before: Any, after: Any, goal: float, steps: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "documents": {"before": before.forget, "after": after.forget},
        "remaining": {"before": before.retain, "after": after.retain},
        "generalist": goal,
    }


def lines(results: dict[str, Any], config: ForgetConfig) -> str:
    """The results for people, and what they do not mean."""
    told = [
        f"{name}: loss {results[name]['before']:.4f} before, "
        f"{results[name]['after']:.4f} after"
        for name in ("documents", "remaining")
    ]
    told.insert(1, f"documents with the generalist alone: {results['generalist']:.4f}")
    if not results["steps"]:
        told.append(
            "nothing to forget: the run knows the documents no better than the "
            "generalist alone; nothing was changed"
        )
    else:
        remaining = results["remaining"]
        told += [WORSE] * (remaining["after"] > 1.01 * remaining["before"])
        told += [KEPT.format(run=config.run), TEXT]
    return "\n".join([*told, *([] if config.retrain else [NO_PROOF]), GENERALIST])


if __name__ == "__main__":
    command.run(main)
