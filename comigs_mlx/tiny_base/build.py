"""Makes a small base model from nothing: text, tokenizer, training, model folder.

Equal seeds, steps, versions and cores give equal bits.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.config import check_new, option, to_dict
from comigs_mlx.data.splits import Sample, divide
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Say, quiet


@dataclass(frozen=True)
class Recipe:
    """Train a small base model on English text that every Python installation carries.

    The text is the built-in help and the docstrings of the standard library; nothing is
    downloaded. The result is a model folder for --model. Killed, it leaves nothing
    half-made: start it again.
    """

    out: str = option("build/tiny-base", "folder of the new model", "DIR")
    steps: int = option(1000, "updates, of --batch-size windows each", "N")
    minutes: float | None = option(
        None, "as many updates as fit into M minutes here, instead of --steps", "M"
    )
    batch_size: int = option(4, "windows in a batch", "N")
    blocks: int = option(6, "transformer blocks", "N")
    width: int = option(192, "size of a token's vector", "N")
    heads: int = option(6, "attention heads", "N")
    context: int = option(
        256, "tokens in a window, and the longest the model reads", "N"
    )
    vocabulary: int = option(4096, "tokens of the tokenizer", "N")
    learning_rate: float = option(2e-3, "the highest of the schedule", "LR")
    seed: int = option(0, "of the first weights and the order of the text", "N")

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        smallest = {"steps": 1, "batch_size": 1, "blocks": 1, "width": 1, "heads": 1}
        smallest |= {"context": 8, "vocabulary": 257, "seed": 0}
        for name, least in smallest.items():
            if (value := getattr(self, name)) < least:
                flag = "--" + name.replace("_", "-")
                yield f"{flag} {value} must be at least {least}"
        if self.heads > 0 and self.width % self.heads:
            yield f"--width {self.width} must be a multiple of --heads {self.heads}"
        for name in ("minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                flag = "--" + name.replace("_", "-")
                yield f"{flag} {value} must be a number above 0"


@dataclass(frozen=True)
class BuildStep:
    """The record of one update.

    Attributes:
        step: The number of the update; the first one is 1.
        steps: The number of updates that there will be.
        loss: The loss of its batch, in nats per token.
    """

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class BuildResult:
    """The record of the finished model.

    Attributes:
        loss: The loss on held-out documents, in nats per token.
        perplexity: The exponential of the loss.
        heldout_tokens: The number of tokens that it was measured on.
        text_tokens: The number of tokens of the training text.
        parameters: The number of scalars of the model.
        steps: The number of updates.
        seconds: The time from reading the text to the end of measuring.
    """

    loss: float
    perplexity: float
    heldout_tokens: int
    text_tokens: int
    parameters: int
    steps: int
    seconds: float


def make(
    recipe: Recipe, texts: Sequence[str], say: Say = quiet
) -> Iterator[BuildStep | BuildResult]:
    """Train a model on nine tenths of `texts` and write its folder, `recipe.out`.

    Args:
        recipe: The size and the training of the model to make.
        texts: The documents; a tenth of them, chosen by their content, is only measured
            on.
        say: Receives a sentence before each step that takes time.

    Yields:
        Progress after each update, and in the end the outcome.

    Raises:
        ConfigError: If the folder is there already.
        DataError: If the text is too short.
        TrainingError: If the loss is not a number any more.
    """
    from comigs_mlx.data.batches import PackedWindows, evaluation_batches
    from comigs_mlx.data.tokens import token_stream
    from comigs_mlx.model.params import flatten
    from comigs_mlx.tiny_base import architecture, pretraining

    folder, start = Path(recipe.out).expanduser(), time.perf_counter()
    check_new(folder)
    train, heldout = _divided(texts)
    say(f"making a tokenizer of {recipe.vocabulary} tokens")
    tokenizer = architecture.train_tokenizer(
        [s["text"] for s in train], recipe.vocabulary
    )
    stream, unseen = (token_stream(part, tokenizer, say) for part in (train, heldout))
    source = PackedWindows(stream, recipe.context, recipe.batch_size, recipe.seed)
    shape = _shape(recipe, len(tokenizer))
    steps = _steps(recipe, architecture.build(shape, recipe.seed), source, start)
    # A new model: the one before may have been changed by trial steps.
    model = architecture.build(shape, recipe.seed)
    say(f"training on {len(stream.tokens):,} tokens of text in {steps:,} steps")
    losses = pretraining.pretrain(model, source, steps, recipe.learning_rate)
    for number, loss in enumerate(losses, 1):
        yield BuildStep(number, steps, loss)
    batches = evaluation_batches(unseen, recipe.context, recipe.batch_size)
    loss = pretraining.heldout_loss(model, batches)
    outcome = BuildResult(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        heldout_tokens=len(unseen.tokens) - 1,
        text_tokens=len(stream.tokens),
        parameters=sum(array.size for array in flatten(model.parameters()).values()),
        steps=steps,
        seconds=round(time.perf_counter() - start, 1),
    )
    architecture.write(folder, model, shape, tokenizer, notes(recipe, outcome))
    yield outcome


def _steps(recipe: Recipe, model: Any, source: Any, start: float) -> int:
    """Return the steps asked for, or as many as fit into the minutes since `start`."""
    from comigs_mlx.tiny_base import pretraining

    if recipe.minutes is None:
        return recipe.steps
    left = 60 * recipe.minutes - (time.perf_counter() - start)
    return pretraining.steps_within(model, source, left)


def notes(recipe: Recipe, outcome: BuildResult) -> dict[str, Any]:
    """Record how a model was made, for its `training.json`."""
    versions = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "mlx": importlib.metadata.version("mlx"),
        "mlx-lm": importlib.metadata.version("mlx-lm"),
    }
    settings = {k: v for k, v in to_dict(recipe).items() if k != "out"}
    return {
        "recipe": settings | {"steps": outcome.steps},
        "outcome": dataclasses.asdict(outcome),
        "versions": versions,
    }


def _shape(recipe: Recipe, vocabulary: int) -> Any:
    from comigs_mlx.tiny_base.architecture import BaseSize

    return BaseSize(
        recipe.blocks, recipe.width, recipe.heads, recipe.context, vocabulary
    )


def _divided(texts: Sequence[str]) -> tuple[list[Sample], list[Sample]]:
    """Divide the texts into training and held-out documents."""
    splits = divide({"all": [{"text": text} for text in texts]})
    train, heldout = [*splits["train"], *splits["valid"]], splits["test"]
    if not train or not heldout:
        raise DataError(
            f"expected text to train on and to measure on, found {len(train)} and "
            f"{len(heldout)} documents: add documents"
        )
    return train, heldout
