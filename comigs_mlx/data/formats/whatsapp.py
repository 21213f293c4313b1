"""WhatsApp's export of a chat, in any language.

    [31.12.24, 23:59:02] Ann: Happy new year!      iPhone, always with seconds
    31/12/2024, 11:59 pm - Ann: Happy new year!    Android, never with seconds

The order of day and month, and brackets or dash, are inferred from the whole file.
Lines without a date go on with the message before. Media that were left out, and what
WhatsApp itself says, are told by their form where they have one: no speaker, a mark of
writing direction before them, or angle brackets around.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from comigs_mlx.data.pieces import Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading import read_utf8
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 36
"""This format is tried before plain text."""

KIND = "WhatsApp"
"""The word of the report."""

MOST_UNPARSED = 0.01
"""The largest share of lines with a date that may not fit the others."""

MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Marks of writing direction, which WhatsApp puts before what it says itself."""

APART = rf"[{MARKS}]*[./\-年월년月][ {MARKS}]*"
DAY = rf"\d{{1,4}}{APART}\d{{1,2}}{APART}\d{{1,4}}"
TIME = r"\d{1,2}[:.]\d\d"
BETWEEN = r"[^\d\n\]]{1,14}"
AFTER = r"(?:[^\S\n]{0,2}[^\W\d_][^\d\n\]:-]{0,6}?)?"
BRACKETS = re.compile(
    rf"[{MARKS}]*\[({DAY})({BETWEEN})({TIME}[:.]\d\d)({AFTER})\] (.*)"
)
DASH = re.compile(rf"[{MARKS}]*({DAY})({BETWEEN})({TIME})({AFTER}) [-–] (.*)")
DATED = re.compile(rf"[{MARKS}]*\[?{DAY}{BETWEEN}{TIME}")
"""A line that begins with a date and a time, in whatever form."""

NUMBERS = re.compile(r"\d+")

PM = frozenset("pm p nachm abends μμ мп ب.ظ م 下午 晚上 오후 午後 du ch öö ös".split())
AM = frozenset("am a vorm пм дп ص 上午 凌晨 早上 오전 午前 sa öe".split())
"""Words for the halves of the day, as letters only."""

ORDERS = ((2, 1, 0), (2, 0, 1), (0, 1, 2))
"""Where year, month and day stand in a date: d/m/y, m/d/y, y/m/d."""

ATTACHED = (
    "file attached|Datei angehängt|fichier joint|file allegato|archivo adjunto|"
    "arquivo anexado|bestand bijgevoegd"
)
FILE = r"[A-Z]{3}-\d{8}-WA\d+\.\w+ \([^()\n]+\)"
MEDIA = re.compile(
    rf"<[^<>\n]+>|null|[{MARKS}].*|{FILE}|[^\n]+\.\w{{2,5}} \((?:{ATTACHED})\)",
    re.DOTALL,
)
"""A whole text that stands for media, or is WhatsApp's own."""

FILE_FIRST = re.compile(rf"\A[{MARKS}]*{FILE}\n")
MARKED_LAST = re.compile(rf"\s*[{MARKS}]+<[^<>\n]+>[{MARKS}]*\Z")
EDITED_LAST = re.compile(r" <[^<>\n]*[^\W\d_]{3,} [^<>\n]+>\Z")
"""A file before its caption, one behind it, and the mark of an edited message."""

DELETED = frozenset(
    {
        "This message was deleted",
        "You deleted this message",
        "Diese Nachricht wurde gelöscht",
        "Diese Nachricht wurde gelöscht.",
        "Du hast diese Nachricht gelöscht",
        "Du hast diese Nachricht gelöscht.",
        "Ce message a été supprimé",
        "Vous avez supprimé ce message",
        "Questo messaggio è stato eliminato",
        "Hai eliminato questo messaggio",
        "Se eliminó este mensaje",
        "Se eliminó este mensaje.",
        "Eliminaste este mensaje",
        "Eliminaste este mensaje.",
        "Mensagem apagada",
        "Você apagou esta mensagem",
        "Dit bericht is verwijderd",
        "Je hebt dit bericht verwijderd",
    }
)
"""What Android writes for deleted messages, without any sign that it does."""

AROUND_NAMES = MARKS + "~ \u00a0\u202f"
"""What stands around names: a tilde before those that are not in the address book."""

LONGEST_NAME = 80
"""The most characters before a colon that may be a speaker."""


@dataclass(frozen=True)
class Line:
    """A dated line, with what goes on below it.

    Attributes:
        number: The number of the line in the file, from 1.
        numbers: The three numbers of the date, as they stand.
        minutes: The minutes since midnight.
        seconds: The seconds of the minute.
        said: The text that stands behind the date, with the lines below.
    """

    number: int
    numbers: tuple[int, int, int]
    minutes: int
    seconds: int
    said: str


def matches(file: FileHead) -> bool:
    """Tell whether a file begins with a dated message or event."""
    head = file.head.decode("utf-8-sig", "ignore").lstrip()
    first = head.partition("\n")[0].rstrip("\r")
    if DASH.fullmatch(first):
        return True
    match = BRACKETS.fullmatch(first)
    if match is None:
        return False
    # Logs of servers have such lines too: there a colon alone is no sign.
    is_iso = re.fullmatch(r"\d{4}-\d\d-\d\d", match[1]) is not None
    name = Path(file.path).name.lower()
    if file.suffix == ".md":
        return False  # what exports of Signal look like
    return not is_iso or "chat" in name or "whatsapp" in name or "\u200e" in head


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the messages of a chat.

    Raises:
        DataError: If more than 1 % of the dated lines do not fit the others; the text
            names the first one.
    """
    del reading
    lines = _lines(path, read_utf8(path).split("\n"))
    order = _order([line.numbers for line in lines])
    days = {numbers: _ordinal(numbers, order) for numbers in {l.numbers for l in lines}}
    _check(path, [line for line in lines if days[line.numbers] is None], len(lines))
    speakers = Counter(line.said.partition(":")[0] for line in lines)
    events = _events(speakers)
    for line in lines:
        day = days[line.numbers]
        time = None
        if day is not None:
            time = (day * 24 * 60 + line.minutes) * 60.0 + line.seconds
        yield from _pieces(f"{path}:{line.number}", line.said, time, events)


def _lines(path: Path, rows: Sequence[str]) -> list[Line]:
    """Find the dated lines, and join what stands below each to it.

    Raises:
        DataError: If too many are dated in another way than the rest.
    """
    header = _header(rows)
    lines: list[Line] = []
    starts: list[int] = []
    strange: list[int] = []
    fits = []
    for number, row in enumerate(rows, 1):
        if match := header.fullmatch(row):
            starts.append(number)
            fits.append(match)
        elif DATED.match(row) or (not starts and row.strip()):
            strange.append(number)
    if len(strange) > MOST_UNPARSED * (len(starts) + len(strange)):
        raise _unparsed(path, strange[0], rows[strange[0] - 1], len(strange))
    ends = [*starts[1:], len(rows) + 1]
    for start, end, match in zip(starts, ends, fits, strict=False):
        said = "\n".join([match[5], *rows[start : end - 1]]).rstrip()
        lines.append(_line(start, match, said))
    return lines


def _header(rows: Iterable[str]) -> re.Pattern[str]:
    """Choose the form that more lines have."""
    in_brackets = sum(row[:6].lstrip(MARKS)[:1] == "[" for row in rows)
    dashed = sum(" - " in row[:40] or " – " in row[:40] for row in rows)
    if in_brackets and dashed:
        in_brackets = sum(BRACKETS.fullmatch(row) is not None for row in rows)
        dashed = sum(DASH.fullmatch(row) is not None for row in rows)
    return BRACKETS if in_brackets > dashed else DASH


def _line(number: int, match: re.Match[str], said: str) -> Line:
    first, second, third = map(int, NUMBERS.findall(match[1]))
    hour, minute, *seconds = map(int, NUMBERS.findall(match[3]))
    half = {_letters(match[2]), _letters(match[4])}
    if half & PM and hour < 12:
        hour += 12
    elif half & AM and hour == 12:
        hour = 0
    return Line(
        number,
        (first, second, third),
        hour * 60 + minute,
        seconds[0] if seconds else 0,
        said,
    )


@functools.lru_cache(maxsize=1000)
def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower().removeprefix("日").strip("일")


def _order(dates: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Infer where year, month and day stand.

    The order counts in which most dates exist; then the one in which time runs
    backwards the least; then the one that most countries use.
    """
    days = list(dict.fromkeys(dates))

    def badness(order: tuple[int, int, int]) -> tuple[int, int]:
        ordinals = [_ordinal(numbers, order) for numbers in days]
        real = [day for day in ordinals if day is not None]
        backwards = sum(b < a for a, b in zip(real, real[1:], strict=False))
        return len(ordinals) - len(real), backwards

    return min(ORDERS, key=badness)


def _ordinal(numbers: tuple[int, int, int], order: tuple[int, int, int]) -> int | None:
    """Return the days since 1970, or None where there is no such date."""
    year, month, day = (numbers[place] for place in order)
    other = [numbers[place] for place in order[1:]]
    if max(other) > 31 or 100 <= year < 1000:
        return None
    year += 2000 if year < 100 else 0
    # Thailand counts from the Buddha, 543 years earlier.
    year -= 543 if year > 2500 else 0
    try:
        return date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None


def _check(path: Path, strange: Sequence[Line], total: int) -> None:
    if len(strange) > MOST_UNPARSED * total:
        numbers = "/".join(map(str, strange[0].numbers))
        raise _unparsed(path, strange[0].number, numbers, len(strange))


def _unparsed(path: Path, number: int, row: str, count: int) -> DataError:
    shown = row.strip()[:60]
    return DataError(
        f"{path}:{number}: expected the form of date that the other messages have, "
        f"found {shown!r} ({count:,} such lines): export the chat again, or put each "
        "export in a file of its own"
    )


def _events(speakers: Counter[str]) -> frozenset[str]:
    """Find what seems a speaker and is an event with a colon in it.

    Such as: Ann changed the subject to "Trip: Rome". It begins with a speaker's name
    and stands there once.
    """
    known = [name for name, count in speakers.items() if count > 2]
    return frozenset(
        name
        for name, count in speakers.items()
        if len(name) > LONGEST_NAME
        or (count <= 2 and any(name.startswith(f"{other} ") for other in known))
    )


def _pieces(
    place: str, said: str, time: float | None, events: frozenset[str]
) -> Iterator[Piece]:
    speaker, colon, text = said.partition(":")
    if not colon or "\n" in speaker or speaker in events or text[:1].strip():
        yield Skipped("messages of WhatsApp itself", place)
        return
    text = text[1:]
    if not text or text in DELETED or MEDIA.fullmatch(text):
        yield Skipped("media or deleted messages", place)
        return
    # Most messages have none of these, and three searches take longer than this.
    bare = _bare(text) if "<" in text or " (" in text else text
    if len(bare) < len(text):
        yield Cut("names of files or marks of edits", len(text) - len(bare), place)
    if bare := bare.strip():
        yield Message(speaker.strip(AROUND_NAMES), bare, place, "", time)


def _bare(text: str) -> str:
    for pattern in (FILE_FIRST, MARKED_LAST, EDITED_LAST):
        text = pattern.sub("", text)
    return text
