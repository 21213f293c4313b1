"""What reading a source found, cut and left out: plain data, for people and JSON."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.data.pieces import Cut, Document, Message, Piece, Remark, Skipped
from comigs_mlx.data.splits import Sample, characters

PLACES = 5
"""The number of places that are kept of each kind of what was left out."""

BREAK = re.compile(r" (?=(?:without|of|in|with|that|by|over|leaving|from|for)\b|\()")
"""The end of the nouns in the plural that say what was left out."""


@dataclass
class Counted:
    """Things of one kind, counted.

    Attributes:
        count: The number of things.
        characters: The number of characters in them, where that is known.
        places: The first places where they stand.
    """

    count: int = 0
    characters: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, characters: int = 0, place: str = "", count: int = 1) -> None:
        """Count `count` things more, of so many characters, that stand at `place`."""
        self.count += count
        self.characters += characters
        if place and len(self.places) < PLACES:
            self.places.append(place)


@dataclass
class ReadingReport:
    """What was read, by kind and by speaker, and what was not.

    Attributes:
        files: Maps a kind of file, such as "mail", to the number of files read.
        documents: Maps a kind to its documents and samples.
        messages: Maps a kind to its messages.
        speakers: Maps a speaker to their messages.
        cut: Maps what was taken off, such as "quotes", to what it was.
        skipped: Maps what was left out, such as "empty files", to what it was.
        remarks: Maps what is to be known of files that were read to their number.
        problems: The files that could not be read, a line each.
        read: The files that were read.
        me: The speakers that are the one who trains.
    """

    files: dict[str, int] = field(default_factory=dict)
    documents: dict[str, Counted] = field(default_factory=dict)
    messages: dict[str, Counted] = field(default_factory=dict)
    speakers: dict[str, Counted] = field(default_factory=dict)
    cut: dict[str, Counted] = field(default_factory=dict)
    skipped: dict[str, Counted] = field(default_factory=dict)
    remarks: dict[str, Counted] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    me: list[str] = field(default_factory=list)

    def add(self, kind: str, piece: Piece) -> None:
        """Count a piece of a file of this kind."""
        match piece:
            case Cut(what, size, place):
                _of(self.cut, what).add(size, place)
            case Skipped(what, place):
                _of(self.skipped, what).add(0, place)
            case Remark(what, place):
                _of(self.remarks, what).add(0, place)
            case Message():
                _of(self.messages, kind).add(len(piece.text))
                _of(self.speakers, piece.speaker).add(len(piece.text))
            case Document():
                _of(self.documents, kind).add(len(piece.text))
            case _:
                _of(self.documents, kind).add(characters(piece))

    def add_file(self, kind: str, path: str, pieces: Iterable[Piece]) -> None:
        """Count a file that was read, with all its pieces."""
        self.files[kind] = self.files.get(kind, 0) + 1
        self.read.append(path)
        for piece in pieces:
            self.add(kind, piece)

    def skip(self, what: str, count: int, place: str = "") -> None:
        """Count `count` things that were left out, if there are any."""
        if count:
            _of(self.skipped, what).add(0, place, count)

    def notes(self) -> list[str]:
        """Tell the user in a line each what was left out and what could not be read."""
        more = len(self.problems) - PLACES
        return [
            *(
                f"skipped {counted(of.count, what)}"
                for what, of in self.skipped.items()
            ),
            *(
                f"{counted(of.count, what)}, such as {of.places[0]}"
                for what, of in self.remarks.items()
            ),
            *(f"not read: {problem}" for problem in self.problems[:PLACES]),
            *([f"not read: {more} more files"] if more > 0 else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as dictionaries and lists."""
        return dataclasses.asdict(self)


def counted(count: int, what: str) -> str:
    """Write a number and what it counts, given in the plural.

    For 1, "files or folders without text" becomes "file or folder without text".
    """
    if count != 1:
        return f"{count:,} {what}"
    nouns, *rest = BREAK.split(what, maxsplit=1)
    singular = " or ".join(noun.removesuffix("s") for noun in nouns.split(" or "))
    rest = [text.replace("that are", "that is") for text in rest]
    return " ".join([f"1 {singular}", *rest])


def of_samples(
    kind: str, samples: Iterable[Sample], files: Iterable[str] = ()
) -> ReadingReport:
    """Report samples that no format made, from these files if from any."""
    report = ReadingReport()
    for sample in samples:
        _of(report.documents, kind).add(characters(sample))
    for path in files:
        report.add_file(kind, path, ())
    return report


def _of(counts: dict[str, Counted], key: str) -> Counted:
    return counts.setdefault(key, Counted())
