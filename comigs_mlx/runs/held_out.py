"""Reads the text that a finished run is measured on, whole and in fixed batches."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx.config import from_dict, leaves, read_yaml
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Note, Say
from comigs_mlx.options import DataOptions, Reading
from comigs_mlx.runs.gain import Gain

if TYPE_CHECKING:
    from comigs_mlx.data.batches import Batch
    from comigs_mlx.data.content import Content
    from comigs_mlx.model.base import Base
    from comigs_mlx.training.evaluation import Evaluator

NAMES = ("data", "seq_len", "batch_size", "mask_prompt", "token_cache")
"""The options of `DataOptions` that decide how a text is measured."""

READING = tuple(field.name for field in leaves(Reading))
"""The options that decide how a text is read."""


def data_options(saved: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a text is measured: as given, else as in the run, else the defaults.

    How it is read stands under "reading"; runs from before these options lack them.

    Args:
        saved: The run's config.yaml, which need not be there.
        given: The values that a command was given; None stands for nothing given.
    """
    defaults = DataOptions()
    names = (*NAMES, *READING)
    values = {name: getattr(defaults, name) for name in NAMES}
    if saved.is_file():
        run = read_yaml(saved)
        values |= {name: run[name] for name in names if name in run}
    stated = {name: given.get(name) for name in names}
    values |= {name: v for name, v in stated.items() if v is not None}
    reading = {name: values.pop(name) for name in READING if name in values}
    return {**values, "reading": from_dict(Reading, reading)}


def tokens_of(
    samples: Sequence[Any],
    kind: str,
    base: Base,
    data: Mapping[str, Any],
    split: str,
    say: Say,
) -> tuple[Content, list[str]]:
    """Tokenise all of a text, nothing cut off; return it and notes on what is left out.

    Args:
        samples: The samples of one split.
        kind: The kind of the samples, "text", "chat" or "mixed".
        base: The base model, whose tokenizer is used.
        data: The values that `data_options` returns.
        split: The name that errors give to the samples.
        say: Receives a sentence on how far the work is.
    """
    from comigs_mlx.data.cache import TokenCache
    from comigs_mlx.data.content import tokenised

    return tokenised(
        samples,
        kind,
        base.tokenizer,
        seq_len=None,
        mask_prompt=data["mask_prompt"],
        cache=TokenCache.of_user(say) if data["token_cache"] else None,
        say=say,
        split=split,
    )


def content_of(
    samples: Sequence[Any],
    kind: str,
    base: Base,
    data: Mapping[str, Any],
    split: str,
    say: Say,
) -> Content:
    """Return all tokens of a text, and say what was noticed in it.

    Args:
        samples: The samples of one split.
        kind: The kind of the samples.
        base: The base model.
        data: The values that `data_options` returns.
        split: The name that errors and notes give to the samples.
        say: Receives a sentence on how far the work is, and the notes.
    """
    from comigs_mlx.training.fitting import check_texts

    content, notes = tokens_of(samples, kind, base, data, split, say)
    for note in [*notes, *check_texts(base, {split: content}, data["seq_len"])]:
        say(Note(f"{split}: {note}"))
    return content


TOKENS = 4096
"""The most tokens of the sample, about. Where losses of tokens spread by one and a half
nats, the standard error of their mean over so many is 0.02 nats, or 2 % of perplexity.
"""

SECONDS = 30.0
"""The time that measuring may take: on a slow machine the sample is a smaller one."""


def sample(content: Content | None, seq_len: int, batch_size: int) -> list[Batch]:
    """Draw the batches that are measured; none where there is no held-out text.

    Args:
        content: The tokens of the test split; None if there is none.
        seq_len: The inputs per sequence, in tokens.
        batch_size: The number of sequences in a batch.
    """
    from comigs_mlx.data.batches import sampled_batches

    if content is None:
        return []
    count = max(TOKENS // (seq_len * batch_size), 1)
    try:
        return sampled_batches(content, seq_len, batch_size, count)
    except DataError:  # too short to predict anything
        return []


def measure(
    evaluator: Evaluator,
    batches: Sequence[Batch],
    clock: Callable[[], float] = time.monotonic,
) -> Gain | None:
    """Measure the base alone and the mixture as it is, on the same tokens.

    Batches are taken in a fixed order that has nothing to do with the text's, until
    `SECONDS` are over, so that what is left out is of no particular kind.

    Args:
        evaluator: The evaluator of the mixture.
        batches: The batches of `sample`.
        clock: Returns the time in seconds.

    Returns:
        The loss of both; None where there is nothing to measure, or a loss is not
        finite.
    """
    from comigs_mlx.training.evaluation import Score

    scores = {"base": Score(), "auto": Score()}
    end = clock() + SECONDS
    for batch in random.Random(0).sample(batches, len(batches)):
        for experts, score in scores.items():
            score.add(*evaluator.batch_losses(batch, experts), batch)
        if clock() > end:
            break
    before, after = scores["base"], scores["auto"]
    if not after.token_count or not (before.finite and after.finite):
        return None
    return Gain(before.loss, after.loss, after.token_count)
