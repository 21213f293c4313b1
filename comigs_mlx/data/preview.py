"""Shows what training would learn from, before it is started; needs no MLX.

A `Preview` is the report before training, as one value: `python -m comigs_mlx.doctor
--data` prints all of it, `train` a few lines, and the app makes tables of it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from comigs_mlx.data import languages, secrets
from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.content import Content, is_windowed, naming_split, tokenised
from comigs_mlx.data.conversation import Tokenizer
from comigs_mlx.data.duplicates import Duplicates, duplicates, text_of
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import Advance, ignore
from comigs_mlx.data.reading_report import ReadingReport
from comigs_mlx.data.splits import (
    SPLITS,
    Sample,
    Splits,
    characters,
    load_splits,
    place,
)
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import DataError
from comigs_mlx.options import DataOptions

T = TypeVar("T")

DEFAULTS = DataOptions()
EXAMPLES, CHARACTERS = 5, 200
"""The number of documents that are shown, and of characters of each."""

MASKED, MASKED_TOKENS = 3, 150
"""The number of samples that are shown with their mask, and of tokens of each."""

LONGEST, PLACES = 3, 10
"""The number of longest lines, and of places with secrets, that are named."""

GUESSED = 2_000
"""The most documents whose language is guessed."""


@dataclass(frozen=True)
class Part:
    """Consecutive tokens of a sample that are all targets, or all not.

    Attributes:
        text: The tokens as text, with secrets redacted.
        target: Whether the model learns to write them.
    """

    text: str
    target: bool


@dataclass(frozen=True)
class LongLine:
    """One of the longest lines.

    Attributes:
        place: The document, as it was read or by its split and number, and the number
            of the line in it.
        characters: The number of characters in the line.
    """

    place: str
    characters: int


@dataclass(frozen=True)
class Truncation:
    """The conversations that are longer than a sequence.

    Attributes:
        samples: The number of conversations of which only the beginning is learnt.
        of: The number of all conversations.
        tokens: The number of tokens that are lost.
        targets: The number of targets among these.
    """

    samples: int = 0
    of: int = 0
    tokens: int = 0
    targets: int = 0

    def __add__(self, other: Truncation) -> Truncation:
        """Return the sums of two."""
        return Truncation(
            *(a + b for a, b in zip(astuple(self), astuple(other), strict=True))
        )


@dataclass(frozen=True)
class Preview:
    """A source of text as training sees it.

    Attributes:
        kind: The kind of the samples, "text", "chat" or "mixed".
        documents: Maps each split to its number of documents.
        tokens: Maps each split to its number of tokens, of conversations only those
            that are kept; None without a tokenizer.
        examples: The beginnings of some training documents, with secrets redacted.
        notes: The warnings that the user should see.
        characters: The number of characters of all documents.
        words: The number of words of all documents, where blanks part them.
        targets: Maps each split to its number of tokens that are learnt; None without a
            tokenizer.
        reading: The account of files and speakers; None where the source gives none.
        duplicates: The documents that repeat an earlier one.
        longest: The longest lines, longest first.
        languages: Maps a guessed language to the characters in it, of some documents.
        secrets: Maps a kind of secret to the number in all splits.
        trained_secrets: The same of the training split, which the experts learn.
        secret_places: The first documents that hold a secret.
        redacted: Maps a kind of secret to the number that was replaced on reading.
        truncated: The conversations that are cut; None for plain text and without a
            tokenizer.
        samples: Some training samples, part by part; empty without a tokenizer.
    """

    kind: str
    documents: dict[str, int]
    tokens: dict[str, int] | None
    examples: list[str]
    notes: list[str]
    characters: int = 0
    words: int = 0
    targets: dict[str, int] | None = None
    reading: ReadingReport | None = None
    duplicates: Duplicates = field(default_factory=Duplicates)
    longest: list[LongLine] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, int] = field(default_factory=dict)
    trained_secrets: dict[str, int] = field(default_factory=dict)
    secret_places: list[str] = field(default_factory=list)
    redacted: dict[str, int] = field(default_factory=dict)
    truncated: Truncation | None = None
    samples: list[list[Part]] = field(default_factory=list)

    def tokens_of(self, characters: int) -> int | None:
        """Estimate the tokens of some characters, by what all of them have."""
        if self.tokens is None or not self.characters:
            return None
        return round(characters * sum(self.tokens.values()) / self.characters)


def preview(
    data: str,
    tokenizer: Tokenizer | None = None,
    seq_len: int = DEFAULTS.seq_len,
    mask_prompt: bool = False,
    reading: Reading = DEFAULT,
    advance: Advance = ignore,
) -> Preview:
    """Read and divide a source, count its tokens, and look at what it holds.

    Args:
        data: The source as `--data` of train names it: a folder, a file, a dataset or
            demo.
        tokenizer: The tokenizer of the base model; None counts no tokens.
        seq_len: The inputs per sequence, in tokens, to which conversations are cut.
        mask_prompt: Whether to train on the assistant's tokens only.
        reading: Says how chats, mail and tables are read.
        advance: Is called as the work goes on, and ends it by raising.

    Raises:
        DataError: If training could not begin with the source; the text says why.
    """
    splits = load_splits(data, advance, reading)
    if tokenizer is None:
        return described(splits)
    contents: dict[str, Content] = {}
    notes, truncated = list(splits.notes), Truncation()
    options: dict[str, Any] = {"mask_prompt": mask_prompt, "advance": advance}
    for name in (name for name in SPLITS if getattr(splits, name)):
        samples = getattr(splits, name)
        contents[name], content_notes = tokenised(
            samples, splits.kind, tokenizer, seq_len=seq_len, split=name, **options
        )
        if name != "test":  # refuses what is too small to be learned from
            with naming_split(name):
                _, batch_notes = training_batches(
                    contents[name], seq_len=seq_len, batch_size=1, seed=0, packing=False
                )
            content_notes = [*content_notes, *batch_notes]
        notes += [f"{name}: {note}" for note in content_notes]
        rows = [s for s in samples if not is_windowed(s, splits.kind)]
        truncated += _truncation(rows, tokenizer, seq_len, **options)
    found = described(splits, contents, notes, tokenizer)
    return replace(found, truncated=truncated) if truncated.of else found


def described(
    splits: Splits,
    contents: Mapping[str, Content] | None = None,
    notes: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    thorough: bool = True,
) -> Preview:
    """Describe text that has been read and tokenised already.

    Args:
        splits: The samples, divided into splits.
        contents: The tokens of the splits that were tokenised; None counts none.
        notes: The notes on samples and tokens; None stands for those of `splits`.
        tokenizer: The tokenizer that turns tokens back into text.
        thorough: Whether to look also for what takes long: near duplicates, long lines
            and languages.
    """
    samples: dict[str, list[Sample]] = {name: getattr(splits, name) for name in SPLITS}
    every = [sample for name in SPLITS for sample in samples[name]]
    by_sample = [secrets.count([sample]) for sample in every]
    holding = [name for name, of in zip(_names(samples), by_sample, strict=True) if of]
    return Preview(
        kind=splits.kind,
        documents={name: len(of_split) for name, of_split in samples.items()},
        tokens=None if contents is None else _counts(contents, targets=False),
        examples=[_beginning(s) for s in itertools.islice(splits.train, EXAMPLES)],
        notes=list(splits.notes if notes is None else notes),
        characters=sum(map(characters, every)),
        words=sum(len(text_of(sample).split()) for sample in every),
        targets=None if contents is None else _counts(contents, targets=True),
        reading=splits.report,
        duplicates=duplicates(samples, near=thorough),
        longest=_longest(samples) if thorough else [],
        languages=_languages(every) if thorough else {},
        secrets=_sum(by_sample),
        trained_secrets=_sum(by_sample[: len(splits.train)]),
        secret_places=holding[:PLACES],
        redacted=splits.redacted,
        samples=_masked((contents or {}).get("train"), tokenizer),
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for of_sample in counts:
        for kind, number in of_sample.items():
            total[kind] = total.get(kind, 0) + number
    return total


def _names(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Name every sample by its place, else by split and number, in order."""
    return [
        place(sample) or f"{split} {number}"
        for split, of_split in samples.items()
        for number, sample in enumerate(of_split, 1)
    ]


def _counts(contents: Mapping[str, Content], targets: bool) -> dict[str, int]:
    """Count the tokens of each split, or those of them that are learnt."""
    counts = dict.fromkeys(SPLITS, 0)
    for name, content in contents.items():
        if isinstance(content, TokenStream):
            count = len(content.tokens)
            counts[name] = max(count - 1, 0) if targets else count
        else:
            counts[name] = sum(
                int(part.labelled.sum()) if targets else len(part.tokens)
                for part in content
            )
    return counts


def _truncation(
    samples: Iterable[Sample], tokenizer: Tokenizer, seq_len: int, **options: Any
) -> Truncation:
    """Count what of the conversations does not fit into a sequence."""
    conversations = [sample for sample in samples if "text" not in sample]
    if not conversations:
        return Truncation()
    try:
        whole, _ = tokenised(conversations, "chat", tokenizer, seq_len=None, **options)
    except DataError:  # nothing to learn in any, though maybe in the texts beside them
        return Truncation()
    assert isinstance(whole, list)
    size = seq_len + 1
    long = [part for part in whole if len(part.tokens) > size]
    return Truncation(
        samples=len(long),
        of=len(whole),
        tokens=sum(len(part.tokens) - size for part in long),
        targets=sum(int(part.labelled[size:].sum()) for part in long),
    )


def _longest(samples: Mapping[str, Sequence[Sample]]) -> list[LongLine]:
    every = (sample for of_split in samples.values() for sample in of_split)
    lines = []
    for name, sample in zip(_names(samples), every, strict=True):
        numbered = enumerate(text_of(sample).split("\n"), 1)
        number, line = max(numbered, key=lambda pair: len(pair[1]))
        lines.append(LongLine(f"{name}, line {number}", len(line)))
    return heapq.nlargest(LONGEST, lines, key=lambda line: line.characters)


def _languages(samples: Sequence[Sample]) -> dict[str, int]:
    step = -(-len(samples) // GUESSED) or 1
    return languages.guesses(text_of(sample) for sample in samples[::step])


def _masked(content: Content | None, tokenizer: Tokenizer | None) -> list[list[Part]]:
    """Show the beginnings of some samples as runs of targets and of context."""
    decode = getattr(tokenizer, "decode", None)
    if content is None or decode is None:
        return []
    if isinstance(content, TokenStream):
        ends = np.flatnonzero(np.diff(content.documents, append=-1)) + 1
        spans = _some(list(itertools.pairwise([0, *ends.tolist()])))
        # All is learnt but the very first token, which nothing predicts.
        parts = [(content.tokens[a:b], np.arange(a, b) > 0) for a, b in spans]
    else:
        parts = [(sample.tokens, sample.labelled) for sample in _some(content)]
    return [
        _runs(tokens[:MASKED_TOKENS], labelled[:MASKED_TOKENS], decode)
        for tokens, labelled in parts
    ]


def _some(items: Sequence[T]) -> list[T]:
    """Choose the first, the last and some between: one folder holds several kinds."""
    places = np.linspace(0, len(items) - 1, MASKED).round().astype(int)
    return [items[place] for place in dict.fromkeys(places.tolist()) if items]


def _runs(tokens: Any, labelled: Any, decode: Any) -> list[Part]:
    borders = [0, *(np.flatnonzero(np.diff(labelled)) + 1).tolist(), len(tokens)]
    return [
        Part(secrets.redacted(decode(tokens[a:b].tolist())), bool(labelled[a]))
        for a, b in itertools.pairwise(borders)
        if a < b
    ]


def _beginning(sample: Sample) -> str:
    """Return the first characters of a document; of a conversation, turn by turn."""
    if "text" in sample:
        text = str(sample["text"])
    elif "messages" in sample:
        turns: list[dict[str, Any]] = sample["messages"]
        text = "\n".join(f"{t['role']}: {t.get('content') or ''}" for t in turns)
    else:
        text = f"user: {sample['prompt']}\nassistant: {sample['completion']}"
    # Redacted first: what is cut within a secret would show a half of it.
    text = secrets.redacted(text[: 50 * CHARACTERS])
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"
