"""Finds the Hub's answers that mean "later", and how long to wait, in one table.

The Hub takes one commit at a time for a repository, limits requests in a window of five
minutes, and answers from copies that lag behind. None of that says that anything is
wrong with a request, so it must never end a training that has run for hours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from comigs_mlx.federation.exchanges.base import Unreachable

LONGEST_ASKED = 300.0
"""The most seconds to wait where the Hub asks for a wait: the length of its window."""

MOST_TEXT = 1 << 16
"""The most bytes of an error's text that are looked at."""

TOO_MANY = r"too (many|often|fast|frequent)|rate.?limit|throttl|slow.?down|try again"
IN_PROGRESS = r"in progress|conflicting operation|try again|locked"


@dataclass(frozen=True)
class Row:
    """One kind of answer that passes.

    Attributes:
        statuses: The HTTP statuses that the answer may have.
        reason: The reason, which is what the Hub does, in words for the user.
        words: A pattern that the answer's text must have.
        request: A pattern that "METHOD path" must have.
        maybe_done: Whether the request may have been carried out all the same.
    """

    statuses: range | tuple[int, ...]
    reason: str
    words: str = ""
    request: str = ""
    maybe_done: bool = False


BUSY, ILL = "asks to slow down", "does not answer well just now"
TABLE = (
    Row((429,), BUSY),
    Row((403,), BUSY, words=TOO_MANY),
    Row((403,), "took too long", words=r"request has expired", request=r"^PUT "),
    Row((409,), "is busy with another commit", request=r"^POST .*/commit/"),
    Row((409,), "is busy with this repository", words=IN_PROGRESS),
    Row((423, 425), "is busy with this repository"),
    # A repository made anew: the Hub believes that it has an upload which is gone.
    Row((400,), "has lost an upload", words=r"lfs pointer pointed to a file"),
    Row((408, *range(500, 600)), ILL, maybe_done=True),
)
STATUSES = frozenset(status for row in TABLE for status in row.statuses)


def later(response: Any) -> Unreachable | None:
    """Return what to raise for an answer that passes; None for any other."""
    if response.status_code not in STATUSES:
        return None
    for row in TABLE:
        if response.status_code in row.statuses and _fits(row, response):
            return Unreachable(
                f"the Hub {row.reason} (status {response.status_code}): try again "
                "later",
                requested_wait(response.headers),
                maybe_done=row.maybe_done,
            )
    return None


def _fits(row: Row, response: Any) -> bool:
    line = f"{response.request.method} {response.request.url.path}"
    if not re.search(row.request, line):
        return False
    return not row.words or bool(re.search(row.words, _text(response), re.IGNORECASE))


def _text(response: Any) -> str:
    """Return the error's text, from the Hub's header for it and from the body."""
    text = response.headers.get("x-error-message", "")
    size = response.headers.get("content-length", "")
    if size.isdecimal() and int(size) <= MOST_TEXT:
        text += " " + response.read().decode(errors="replace")
    return str(text)


def requested_wait(headers: Any) -> float | None:
    """Return the seconds that the headers ask to wait (`Retry-After` or `RateLimit`).

    It is None where they ask for nothing that can be read, or for no wait at all.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value) or None
    if value and (until := _until(value, headers.get("date", ""))) is not None:
        return until
    window = re.search(
        r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", "")
    )
    return (float(window[1]) or None) if window else None


def _until(moment: str, now: str) -> float | None:
    """Return the seconds from the server's time, or ours, to an HTTP date in the
    future.
    """
    end = _date(moment)
    if end is None:
        return None
    begin = _date(now) or datetime.now(UTC)
    return max((end - begin).total_seconds(), 0.0) or None


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def pause(
    requested: float | None,
    own: float,
    shortest: float,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float:
    """Choose the seconds to wait: not none, not too many, and with a share of chance.

    Args:
        requested: The seconds that the other side asked to wait, or None.
        own: The seconds to wait if it asked for no wait.
        shortest: The fewest seconds to wait if it asked for a wait.
        uniform: The source of chance, so that many clients do not come back together.
    """
    if requested is None:
        return own * uniform(0.5, 1.0)
    return min(max(requested, shortest), LONGEST_ASKED) * uniform(1.0, 1.25)
