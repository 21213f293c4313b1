"""A preview as lines for people: all of it, or the few lines that `train` begins with.

Nothing that a file says reaches the terminal as it is: control characters, which move
the cursor or change colours, are shown as `�`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from comigs_mlx.data import secrets
from comigs_mlx.data.preview import Part, Preview
from comigs_mlx.data.reading_report import Counted, ReadingReport, counted
from comigs_mlx.data.splits import SPLITS
from comigs_mlx.messages import Note

UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Control characters but for line ends and tabs, and those that turn the direction."""

SPEAKERS, KINDS, SHORT = 10, 12, 3
"""The speakers and kinds that are listed in full, and in one line."""

BOLD, DIM, PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
"""The codes for what is learnt, for its context, and for the end of both."""

PURPOSE = {"train": "learnt", "valid": "learnt by routers", "test": "measured only"}
"""What the targets of each split are for."""

OPENED, CLOSED = "⟦", "⟧"
"""The marks around what is learnt, where there are no colours."""


def clean(text: str) -> str:
    """Return a text that a terminal only shows."""
    return UNSAFE.sub("\ufffd", text)


def full(found: Preview, colour: bool) -> list[str]:
    """Write all of a preview.

    Args:
        found: The preview to write.
        colour: Whether the lines are for a terminal with colours.
    """
    lines = [*_splits(found), *holds(found), *map(Note, notes(found))]
    return [*map(clean, lines), *_samples(found.samples, colour)]


def notes(found: Preview) -> list[str]:
    """Give the notes of a preview that `holds` does not say already."""
    said = [] if found.reading is None else found.reading.notes()
    return [note for note in found.notes if note not in said]


def holds(found: Preview) -> list[str]:
    """Write what was read, cut and left out, and what the text holds."""
    reading = [] if found.reading is None else _reading(found, found.reading)
    return [clean(line) for line in (*reading, *_content(found), *_secrets(found))]


def short(found: Preview) -> list[str]:
    """Write what matters most in at most five lines."""
    lines = []
    if (reading := found.reading) is not None and sum(reading.files.values()) > 1:
        parts = [f"files: {_listed(reading.files, SHORT)}"]
        parts += [f"cut {_listed(_sizes(reading.cut), SHORT)}"] * bool(reading.cut)
        parts += [f"{len(reading.problems)} not read"] * bool(reading.problems)
        lines.append("; ".join(parts))
    if reading is not None and reading.speakers:
        lines.append(f"speakers: {'; '.join(_speakers(found, reading, SHORT))}")
    if found.tokens is not None and found.targets is not None:
        tokens, targets = found.tokens["train"], found.targets["train"]
        lines.append(f"train: {tokens:,} tokens, {_share(targets, tokens)} learnt")
    if found.duplicates.exact:
        lines.append(
            f"duplicates: {_documents(found.duplicates.exact)} repeated exactly"
        )
    return [clean(line) for line in lines]


def secrets_sentence(found: Preview) -> str:
    """Tell in a sentence which secrets the training text holds."""
    counts = secrets.listed(found.trained_secrets)
    if counts:
        return (
            f"the training text holds {counts}, which a shared generalist could "
            "repeat: --redact replaces them, and python -m comigs_mlx.doctor --data "
            "says where"
        )
    return "secrets: none found in the training text"


def to_json(found: Preview) -> dict[str, Any]:
    """Return a preview as dictionaries and lists."""
    return dataclasses.asdict(found)


def _splits(found: Preview) -> Iterator[str]:
    yield f"read as {found.kind}: {sum(found.documents.values()):,} documents"
    for name in SPLITS:
        line = f"  {name:6} {_documents(found.documents[name])}"
        if found.tokens is not None and found.targets is not None:
            tokens = found.tokens[name]
            learnt = PURPOSE[name]
            line += (
                f", {tokens:,} tokens, {_share(found.targets[name], tokens)} {learnt}"
            )
        yield line
    if found.tokens is None:
        yield "  tokens are counted for a base model: --model ID|PATH|demo"


def _share(targets: int, tokens: int) -> str:
    share = f" ({targets / tokens:.0%})" if tokens else ""
    return f"{targets:,}{share}"


def _reading(found: Preview, reading: ReadingReport) -> Iterator[str]:
    for kind in dict.fromkeys([*reading.files, *reading.documents, *reading.messages]):
        files = reading.files.get(kind)
        parts = [counted(files, "files")] if files else []
        pieces = {"documents": reading.documents, "messages": reading.messages}
        for what, by_kind in pieces.items():
            if kind in by_kind:
                parts.append(counted(by_kind[kind].count, what))
                parts.append(_size(found, by_kind[kind].characters))
        yield f"  {kind}: {', '.join(parts)}"
    for line in _speakers(found, reading, SPEAKERS):
        yield f"  speaker {line}"
    if reading.cut:
        yield f"cut off: {_listed(_sizes(reading.cut), KINDS)}"
    for verb, things in (("skipped", reading.skipped), ("noticed", reading.remarks)):
        for what, of in things.items():
            yield f"{verb}: {counted(of.count, what)}{_places(of.places)}"
    for problem in reading.problems:
        yield f"not read: {problem}"


def _speakers(found: Preview, reading: ReadingReport, most: int) -> list[str]:
    ordered = sorted(reading.speakers.items(), key=lambda item: -item[1].count)
    me = {name.casefold() for name in reading.me}
    lines = [
        f"{name}{' (you)' if name.casefold() in me else ''}: "
        f"{counted(of.count, 'messages')}, {_size(found, of.characters)}"
        for name, of in ordered[:most]
    ]
    more = len(ordered) - most
    return [*lines, *([f"and {more:,} more"] if more > 0 else [])]


def _size(found: Preview, characters: int) -> str:
    tokens = found.tokens_of(characters)
    about = "" if tokens is None else f" (about {tokens:,} tokens)"
    return f"{characters:,} characters{about}"


def _content(found: Preview) -> Iterator[str]:
    if (cut := found.truncated) is not None and cut.samples:
        yield (
            f"truncated: {cut.samples:,} of {cut.of:,} conversations are longer than "
            f"--seq-len: {cut.tokens:,} tokens are not read, {cut.targets:,} of which "
            "would be learnt"
        )
    repeated = found.duplicates
    yield (
        f"duplicates: {repeated.exact:,} exact, {repeated.near:,} near among "
        f"{_documents(repeated.compared)} compared"
        + (f", {repeated.across:,} of them across splits" if repeated.across else "")
    )
    for one, other in repeated.examples:
        yield f"  {one} is nearly {other}"
    if found.longest:
        lines = (f"{line.characters:,} ({line.place})" for line in found.longest)
        yield f"longest lines, in characters: {', '.join(lines)}"
    if total := sum(found.languages.values()):
        shares = {name: f"{n / total:.0%}" for name, n in found.languages.items()}
        yield f"languages (a guess): {_listed(shares, KINDS)}"


def _secrets(found: Preview) -> Iterator[str]:
    if found.redacted:
        yield f"secrets: replaced {secrets.listed(found.redacted)} (--redact)"
    if found.secrets:
        yield f"secrets: {secrets.listed(found.secrets)}: --redact replaces them"
        yield f"  in {', '.join(found.secret_places)}"
    elif not found.redacted:
        yield "secrets: none found"


def _samples(samples: Iterable[list[Part]], colour: bool) -> Iterator[str]:
    """Write samples with what is learnt in colour, or between marks."""
    for number, sample in enumerate(samples, 1):
        if number == 1:
            how = "in colour" if colour else f"between {OPENED} and {CLOSED}"
            yield f"samples (what is learnt is {how}):"
        yield f"--- {number}"
        yield "".join(_part(part, colour) for part in sample)


def _part(part: Part, colour: bool) -> str:
    text = clean(part.text)
    if colour:  # line by line, as pagers forget colours at a line's end
        code = BOLD if part.target else DIM
        return "\n".join(f"{code}{line}{PLAIN}" for line in text.split("\n"))
    return f"{OPENED}{text}{CLOSED}" if part.target else text


def _sizes(counts: Mapping[str, Counted]) -> dict[str, str]:
    return {
        what: f"{of.count:,} ({of.characters:,} characters)"
        for what, of in counts.items()
    }


def _listed(values: Mapping[str, Any], most: int) -> str:
    shown = [f"{name} {value}" for name, value in list(values.items())[:most]]
    more = len(values) - most
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _places(places: list[str]) -> str:
    return f" ({', '.join(places)})" if places else ""


def _documents(count: int) -> str:
    return f"{count:,} document{'s' * (count != 1)}"
