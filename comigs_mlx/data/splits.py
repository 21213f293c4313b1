"""Reads a source (folder, file, dataset id, demo) as train, valid and test samples.

Experts learn from train, routers from valid, and neither ever sees test. A sample that
stands in two splits would let the routers reward memorising, so a duplicate never
crosses a split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comigs_mlx import registry
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import Advance, ignore
from comigs_mlx.errors import DataError, TooLittleText, raise_all
from comigs_mlx.messages import Note, Say, quiet

if TYPE_CHECKING:
    from comigs_mlx.data.reading_report import ReadingReport

Sample = dict[str, Any]
"""{"text": str}, {"messages": [...], "tools": [...]} or {"prompt": str,
"completion": str}; "tools" is optional. A conversation with "mask": "assistant" is
learnt from the assistant's turns alone, whatever else is asked for."""


class Placed(dict[str, Any]):
    """A `Sample` that knows where it was read.

    Attributes:
        place: The place where it was read, such as "train.jsonl:3".
    """

    def __init__(self, sample: Sample, place: str) -> None:
        """Make a copy of `sample` that was read at `place`."""
        super().__init__(sample)
        self.place = place


def place(sample: Sample) -> str:
    """Return the place where `sample` was read; "" if it is not known."""
    return sample.place if isinstance(sample, Placed) else ""


def texts(sample: Sample) -> list[str]:
    """Return what a sample says, text by text, without roles and tools."""
    said = [message.get("content") or "" for message in sample.get("messages") or []]
    return said + [sample[n] for n in ("text", "prompt", "completion") if n in sample]


def characters(sample: Sample) -> int:
    """Count the characters of what a sample says."""
    return sum(map(len, texts(sample)))


SPLITS = ("train", "valid", "test")
"""The three splits: for the experts, for the routers, and for measuring only."""

TRAIN_SHARE, VALID_SHARE = 0.8, 0.1
"""The shares that train and valid have of an undivided source; the rest is test."""


@dataclass(frozen=True)
class RawSplits:
    """The samples and notes that a source gave, not yet divided.

    Attributes:
        splits: The samples by split, or under the single key "all" where undivided.
        notes: Counted warnings, such as "skipped 2 empty files".
        report: The account of what was read, cut and left out; None where the
            source gives none.
        redacted: Maps a kind of secret to the number that was replaced.
    """

    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    report: ReadingReport | None = None
    redacted: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """Samples ready for tokenising; no sample stands in two splits.

    Attributes:
        train: The samples that the experts learn from; never empty.
        valid: The samples that the routers learn from; never empty.
        test: The samples that neither sees; may be empty.
        kind: The kind of the samples: "text", "chat" (conversations and
            prompt/completion pairs), or "mixed".
        notes: Counted warnings for the user.
        report: The account of what was read, cut and left out; None where the
            source gives none.
        redacted: Maps a kind of secret to the number that was replaced.
    """

    train: list[Sample]
    valid: list[Sample]
    test: list[Sample]
    kind: str
    notes: list[str] = field(default_factory=list)
    report: ReadingReport | None = None
    redacted: dict[str, int] = field(default_factory=dict)


def load_splits(
    source: str, advance: Advance = ignore, reading: Reading = DEFAULT
) -> Splits:
    """Read `source` and divide what it leaves undivided.

    Args:
        source: The name of a folder or file, a Hugging Face dataset id, or
            "demo[:persona]".
        advance: Is called as reading goes on, and ends it by raising.
        reading: Says how chats, mail and tables are read.

    Raises:
        DataError: If nothing reads `source`, its content is invalid or mixed, or
            train or valid would be empty.
    """
    raw = _read(source, reading, advance)
    kind = _kind(source, raw.splits)
    splits, notes = _divided(raw.splits)
    notes = [*raw.notes, *notes]
    _check_filled(source, splits, notes)
    train, valid, test = (splits[name] for name in SPLITS)
    return Splits(train, valid, test, kind, notes, raw.report, raw.redacted)


def load_split(
    source: str,
    split: str,
    advance: Advance = ignore,
    say: Say = quiet,
    reading: Reading = DEFAULT,
) -> tuple[list[Sample], str]:
    """Load one split alone, to measure on; the others may be empty.

    Args:
        source: The name of a source, as `load_splits` takes it.
        split: The split: "train", "valid", "test", or "all" for every document of the
            source.
        advance: Is called as reading goes on, and ends it by raising.
        say: Receives a sentence on each kind of document that was left out.
        reading: Says how chats, mail and tables are read.

    Returns:
        The samples of the split, and their kind.

    Raises:
        DataError: If `source` cannot be read or the split is empty.
    """
    raw = _read(source, reading, advance)
    kind = _kind(source, raw.splits)
    divided, notes = _divided(raw.splits)
    for note in [*raw.notes, *notes]:
        say(Note(note))
    parts = divided if split != "all" else raw.splits
    samples = [s for name in parts if split in (name, "all") for s in parts[name]]
    if not samples:
        counts = ", ".join(f"{name} {len(divided[name])}" for name in SPLITS)
        raise DataError(
            f"{source}: {split} is empty (documents: {counts}): choose another "
            "--split, or all"
        )
    return samples, kind


def divide(splits: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Give every split its samples; those the user gave stay as they are.

    "all", or train alone, is divided 80/10/10; train beside a test but no valid gives
    10 % to valid; train beside a valid but no test leaves test empty.
    """
    names = set(splits)
    if names in ({"all"}, {"train"}):
        (samples,) = splits.values()
        return _by_hash(samples, SPLITS)
    if names == {"train", "test"}:
        return {**splits, **_by_hash(splits["train"], ("train", "valid"))}
    return {name: splits.get(name, []) for name in SPLITS}


def _divided(
    raw: dict[str, list[Sample]],
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Make three splits without overlaps, and notes on how they were made."""
    splits, notes = _without_overlaps(divide(raw))
    if "valid" in raw:
        return splits, notes
    by_chance = {name for name in SPLITS if name not in raw or name != "test"}
    return splits, [*notes, *_fill(splits, by_chance)]


def _fill(splits: dict[str, list[Sample]], by_chance: set[str]) -> list[str]:
    """Give train and valid a document of the fullest split where chance left none.

    A handful of documents is often divided so; the one that the smallest change of its
    position would have put there is taken, with its duplicates. Only the splits in
    `by_chance` were divided by chance.
    """
    notes = []
    for name, at in (("valid", TRAIN_SHARE), ("train", 0.0)):
        digests = {split: {_digest(s) for s in splits[split]} for split in by_chance}
        fullest = max(sorted(digests), key=lambda split: len(digests[split]))
        if splits[name] or len(digests[fullest]) < (1 if fullest == "test" else 2):
            continue
        moved = _digest(min(splits[fullest], key=lambda s: abs(position(s) - at)))
        splits[name] = [s for s in splits[fullest] if _digest(s) == moved]
        splits[fullest] = [s for s in splits[fullest] if _digest(s) != moved]
        notes.append(
            f"too few documents to divide by chance: {name} got one of {fullest}'s"
        )
    return notes


def position(sample: Sample) -> float:
    """Return where the content of `sample` falls in [0, 1), which nothing else decides.

    So adding documents moves no other document, and duplicates stay together.
    """
    return int.from_bytes(_digest(sample)[:6], "big") / 2**48


def _by_hash(samples: list[Sample], into: tuple[str, ...]) -> dict[str, list[Sample]]:
    """Divide `samples` among `into`; without a test, its share goes to train."""
    parts: dict[str, list[Sample]] = {name: [] for name in into}
    for sample in samples:
        at = position(sample)
        name = "train" if at < TRAIN_SHARE else "valid"
        if at >= TRAIN_SHARE + VALID_SHARE:
            name = "test" if "test" in into else "train"
        parts[name].append(sample)
    return parts


def _digest(sample: Sample) -> bytes:
    """Return the SHA-256 of the content: of the text, else of JSON with sorted keys."""
    content = sample["text"] if "text" in sample else json.dumps(sample, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


def _without_overlaps(
    splits: dict[str, list[Sample]],
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Drop from train what stands in valid or test, and from valid what is in test."""
    digests = {name: {_digest(s) for s in splits[name]} for name in ("valid", "test")}
    remaining, notes = dict(splits), []
    for name, holders in (("train", ("valid", "test")), ("valid", ("test",))):
        heldout = set().union(*(digests[holder] for holder in holders))
        remaining[name] = [s for s in splits[name] if _digest(s) not in heldout]
        if dropped := len(splits[name]) - len(remaining[name]):
            where = " or ".join(holders)
            notes.append(
                f"dropped {_count(dropped)} from {name} also standing in {where}"
            )
    return remaining, notes


def _redacted(raw: RawSplits) -> RawSplits:
    """Replace all secrets, before anything is divided by its content."""
    from comigs_mlx.data import secrets

    counts: Counter[str] = Counter()
    splits = {
        name: [secrets.redacted_sample(sample, counts) for sample in samples]
        for name, samples in raw.splits.items()
    }
    note = f"replaced {secrets.listed(counts)} (--redact)"
    notes = [*raw.notes, *([note] if counts else [])]
    return RawSplits(splits, notes, raw.report, dict(counts))


def _read(source: str, reading: Reading, advance: Advance) -> RawSplits:
    path = os.path.expanduser(source)
    sources = [registry.load("source", name) for name in registry.names("source")]
    for plugin in sorted(sources, key=lambda plugin: int(plugin.ORDER)):
        if path and plugin.matches(path):
            raw: RawSplits = plugin.read(path, reading, advance)
            return _redacted(raw) if reading.redact else raw
    raise DataError(
        f"no such file or folder: {source!r} (give a folder or file of text or JSONL, "
        "a Hugging Face dataset as owner/name, or demo)"
    )


def _kind(source: str, splits: dict[str, list[Sample]]) -> str:
    samples = [sample for part in splits.values() for sample in part]
    text = sum("text" in sample for sample in samples)
    if 0 < text < len(samples):
        # One source may hold notes and chats; splits given apart are the same thing.
        if set(splits) == {"all"}:
            return "mixed"
        raise DataError(
            f"{source}: expected one kind of sample, found {text} of plain text and "
            f"{len(samples) - text} of chat: keep one kind"
        )
    return "text" if text else "chat"


def _check_filled(
    source: str, splits: dict[str, list[Sample]], notes: Iterable[str]
) -> None:
    counts = ", ".join(f"{name} {len(splits[name])}" for name in SPLITS)
    problems = [
        f"{source}: {name} is empty (documents: {counts}): add documents, or give "
        "train.txt, valid.txt and test.txt (or .jsonl)"
        for name in ("train", "valid")
        if not splits[name]
    ]
    raise_all(TooLittleText, [*problems, *notes] if problems else [])


def _count(documents: int) -> str:
    return f"{documents} document" + ("s" if documents != 1 else "")
