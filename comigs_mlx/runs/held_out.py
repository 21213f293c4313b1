"""Reads the text that a finished run is measured on, whole and in fixed batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""The tokens of the sample, about: a few seconds on a CPU, and a standard error of a
percent where losses of tokens spread by a nat or two, as they do in text.
"""


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


def measure(evaluator: Evaluator, batches: Sequence[Batch]) -> Gain | None:
    """Measure the base alone and the mixture as it is.

    Args:
        evaluator: The evaluator of the mixture.
        batches: The batches of `sample`.

    Returns:
        The loss of both; None where there is nothing to measure, or a loss is not
        finite.
    """
    from comigs_mlx.training.evaluation import NotFinite

    if not batches:
        return None
    try:
        before, after = (evaluator.score(batches, who) for who in ("base", "auto"))
    except (DataError, NotFinite):
        return None
    return Gain(before.loss, after.loss, after.token_count)
