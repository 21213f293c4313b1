"""The text on which an exported model is compared with the run that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comigs_mlx.data.batches import Batch, sampled_batches
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import Sample, load_split, load_splits
from comigs_mlx.messages import Note, Say
from comigs_mlx.model.base import Base
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.held_out import content_of, data_options

BATCHES = 64
"""The batches of a long text that are measured, drawn from all its parts."""


def batches(
    folder: RunFolder,
    base: Base,
    source: str | None,
    say: Say,
    router_text: bool = False,
) -> tuple[str, list[Batch]]:
    """Read held-out text, cut as the run was trained.

    Args:
        folder: The run that is exported.
        base: The run's base model with its tokenizer.
        source: The text, all of which is read; None reads the test part of the run's
            own, and where it has none, the part that its routers learnt from.
        say: Receives a sentence on each thing that was noticed.
        router_text: Whether to read, of the run's own text, the part that its routers
            learnt from.

    Returns:
        The name of the part, and its batches.

    Raises:
        DataError: If there is no such text.
    """
    data = data_options(folder.config, {})
    part, samples, kind = _samples(source, data, say, router_text)
    content = content_of(samples, kind, base, data, part, say)
    size = (data["seq_len"], data["batch_size"])
    return part, sampled_batches(content, *size, BATCHES)


def _samples(
    source: str | None, data: Mapping[str, Any], say: Say, router_text: bool
) -> tuple[str, list[Sample], str]:
    """Return the name of the part that is measured, its samples, and their kind."""
    tell = in_sentences(say)
    if source is not None:
        samples, kind = load_split(source, "all", tell, say, data["reading"])
        return "all", samples, kind
    splits = load_splits(data["data"], tell, data["reading"])
    if router_text:
        return "valid", splits.valid, splits.kind
    if splits.test:
        return "test", splits.test, splits.kind
    say(Note("the text has no test part: measured on valid, which routers learnt from"))
    return "valid", splits.valid, splits.kind
