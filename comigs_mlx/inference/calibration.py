"""Finds the lean of a run on its own validation text, and keeps it: `inference.lean`.

`python -m comigs_mlx.evaluate --calibrate-lean` and the app's "Find the best" do this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comigs_mlx.data.batches import Batch, announced, evaluation_batches
from comigs_mlx.data.splits import load_split
from comigs_mlx.inference import lean, tilts
from comigs_mlx.messages import Say
from comigs_mlx.runs.held_out import content_of, data_options
from comigs_mlx.runs.place import Place

if TYPE_CHECKING:
    from comigs_mlx.model.base import Base
    from comigs_mlx.training.evaluation import Evaluator


def validation(folder: Place, base: Base, say: Say) -> list[Batch]:
    """A run's own validation text, in windows.

    Args:
        folder: The folder of the run.
        base: The base model, whose tokenizer is used.
        say: Receives a sentence on how far the work is.

    Raises:
        ComigsError: If the text is not there any more, or holds none for validation.
    """
    data = data_options(folder.config, {})
    samples, kind = load_split(data["data"], "valid", say=say, reading=data["reading"])
    content = content_of(samples, kind, base, data, "valid", say)
    return list(evaluation_batches(content, data["seq_len"], data["batch_size"]))


def find_lean(
    folder: Place,
    evaluator: Evaluator,
    batches: Sequence[Batch],
    step: Callable[[float], None],
) -> tuple[lean.Kept, list[lean.Trial]]:
    """Find the lean that serves best on some text, and keep it in the run.

    Args:
        folder: The folder of the run.
        evaluator: Of the mixture with the run's values.
        batches: The text.
        step: Is told the lean after each batch; there are `lean.MOST_TRIALS` times as
            many as there are batches, or fewer.

    Returns:
        What is kept, and every lean that was tried.

    Raises:
        ConfigError: If all experts of the run are of one kind.
    """
    tilts.lean_rows(evaluator.mixture, 1.0)  # refused before the first pass
    tokens = 0

    def loss(value: float) -> float:
        nonlocal tokens
        rows = tilts.lean_rows(evaluator.mixture, value)
        read = announced(batches, step, value)
        score = evaluator.score(read, "auto", tilts.as_input(rows))
        tokens = score.token_count
        return score.loss

    trials = list(lean.search(loss))
    return lean.keep(folder, evaluator.mixture, trials, tokens), trials
