"""Values -> what the page shows: HTML is made here alone, its text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .remedies import button

PER_MILLE = 1000
"""Weights travel as whole thousandths: short, and finer than any tint."""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """An HTML table; every cell is escaped. Without rows: a line that says so."""
    body = "".join(_row("td", row) for row in rows)
    if not body:
        return note(f"{caption}: nothing yet" if caption else "Nothing yet")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in head)
    return (
        f'<div class="cm-scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption or "Table")}"><table class="cm-table">{title}'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(tag: str, cells: Sequence[Any]) -> str:
    inner = "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def facts(values: Mapping[str, Any], label: str) -> str:
    """Names and values side by side."""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="cm-facts" aria-label="{escape(label)}">{pairs}</dl>'


def note(text: str) -> str:
    """A quiet sentence."""
    return f'<p class="cm-note">{escape(text)}</p>'


def problem(text: str, remedy: str = "") -> str:
    """A sentence that something is wrong, and a button that mends it, as HTML."""
    return f'<p class="cm-problem" role="alert">{escape(text)}{button(remedy)}</p>'


def listing(texts: Iterable[str], label: str) -> str:
    """A list of short texts."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return (
        f'<ul class="cm-list" aria-label="{escape(label)}">{items}</ul>'
        if items
        else ""
    )


def masked(samples: Iterable[Iterable[tuple[str, bool]]], label: str) -> str:
    """A list of texts whose parts are marked where they are learnt."""
    items = "".join(f"<li>{''.join(map(_part, parts))}</li>" for parts in samples)
    if not items:
        return ""
    return (
        f'<p class="cm-note">{escape(label)}</p>'
        f'<ul class="cm-list" aria-label="{escape(label)}">{items}</ul>'
    )


def _part(part: tuple[str, bool]) -> str:
    text, learnt = part
    return f"<mark>{escape(text)}</mark>" if learnt else escape(text)


def bar(done: int, total: int, text: str, label: str = "Training progress") -> str:
    """A progress bar with a line of text."""
    value = min(max(done, 0), total)
    return (
        f'<div class="cm-progress"><progress max="{total}" value="{value}" '
        f'aria-label="{escape(label)}"></progress><span>{escape(text)}</span></div>'
    )


def duration(seconds: float) -> str:
    """`65` -> `1 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s"


def roughly(seconds: float) -> str:
    """A guess, no finer than it is known: `311` -> `5 min`, `8100` -> `2 h 15 min`."""
    step = next(s for limit, s in STEPS if seconds < limit)
    return duration(max(round(seconds / step), 1) * step)


STEPS = ((90, 10), (600, 60), (3600, 300), (float("inf"), 900))
"""Below how many seconds a guess is rounded to how many."""


def size(count: int) -> str:
    """`123456` bytes -> `123 kB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def busy(queue: int) -> str:
    """What somebody is told who has to wait for `queue` others; empty for none."""
    return f"Waiting: the model is busy ({queue} before you)" if queue else ""


def waiting(queue: int) -> str:
    """The same as HTML."""
    return note(busy(queue)) if queue else ""
