"""Shows what training would learn from, before it is started; needs no MLX."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.content import naming_split, tokenised
from comigs_mlx.data.conversation import Tokenizer
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.splits import SPLITS, Sample, load_splits
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.options import DataOptions

DEFAULTS = DataOptions()
EXAMPLES, CHARACTERS = 5, 200
"""The number of documents that are shown, and of characters of each."""


@dataclass(frozen=True)
class Preview:
    """A source of text as training sees it.

    Attributes:
        kind: The kind of the samples, "text", "chat" or "mixed".
        documents: Maps each split to its number of documents.
        tokens: Maps each split to its number of tokens, of conversations only those
            that are kept; None without a tokenizer.
        examples: The beginnings of some training documents.
        notes: The warnings that the user should see.
    """

    kind: str
    documents: dict[str, int]
    tokens: dict[str, int] | None
    examples: list[str]
    notes: list[str]


def preview(
    data: str,
    tokenizer: Tokenizer | None = None,
    seq_len: int = DEFAULTS.seq_len,
    mask_prompt: bool = False,
    reading: Reading = DEFAULT,
) -> Preview:
    """Read and divide a source, and count its tokens.

    Args:
        data: The source as `--data` of train names it: a folder, a file, a dataset or
            demo.
        tokenizer: The tokenizer of the base model; None counts no tokens.
        seq_len: The inputs per sequence, in tokens, to which conversations are cut.
        mask_prompt: Whether to train on the assistant's tokens only.
        reading: Says how chats, mail and tables are read.

    Raises:
        DataError: If training could not begin with the source; the text says why.
    """
    splits = load_splits(data, reading=reading)
    samples: dict[str, list[Sample]] = {n: getattr(splits, n) for n in SPLITS}
    notes, tokens = list(splits.notes), None
    if tokenizer is not None:
        tokens = dict.fromkeys(SPLITS, 0)
        for name in (name for name in SPLITS if samples[name]):
            content, content_notes = tokenised(
                samples[name],
                splits.kind,
                tokenizer,
                seq_len=seq_len,
                mask_prompt=mask_prompt,
                split=name,
            )
            if name != "test":  # refuses what is too small to be learned from
                with naming_split(name):
                    _, batch_notes = training_batches(
                        content, seq_len=seq_len, batch_size=1, seed=0, packing=False
                    )
                content_notes = [*content_notes, *batch_notes]
            parts = [content] if isinstance(content, TokenStream) else content
            tokens[name] = sum(len(part.tokens) for part in parts)
            notes += [f"{name}: {note}" for note in content_notes]
    examples = [_beginning(s) for s in itertools.islice(splits.train, EXAMPLES)]
    counts = {name: len(of_split) for name, of_split in samples.items()}
    return Preview(splits.kind, counts, tokens, examples, notes)


def _beginning(sample: Sample) -> str:
    """Return the first characters of a document; of a conversation, turn by turn."""
    if "text" in sample:
        text = str(sample["text"])
    elif "messages" in sample:
        turns: list[dict[str, Any]] = sample["messages"]
        text = "\n".join(f"{t['role']}: {t.get('content') or ''}" for t in turns)
    else:
        text = f"user: {sample['prompt']}\nassistant: {sample['completion']}"
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"
