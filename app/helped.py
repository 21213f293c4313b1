"""Did it help me? What a report measured of each kept generalist, as HTML.

Differences of losses become per cent of perplexity, which is how many words the model
hesitates between: 5 % better is 5 % fewer. All rows share one axis, which spans at
least 5 % to each side, so that noise looks small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from comigs_mlx.reports.background import Measured

from . import render, words

WIDTH, HEIGHT = 300, 22
LEAST = 5.0
"""Per cent that the axis spans at least, to each side."""

MOST = 400.0
"""Per cent that are drawn at most; the text says what there is more of."""

UNKNOWN = (
    "Nobody has looked yet. Your own held-out text, which nothing has learnt from, is "
    "read once with each version that is kept here. It takes a minute or a few, and "
    "nothing leaves this machine."
)


@dataclass(frozen=True)
class Row:
    """One version of the shared half, against having none.

    Attributes:
        label: What it is, such as "in round 3".
        number: What `roll_back` knows it by; None for the one in use.
        gain: Per cent better than with nothing shared; None where it is not known.
        ends: The 95 % interval of `gain`; None where there is only one document.
    """

    label: str
    number: int | None
    gain: float | None
    ends: tuple[float, float] | None


def rows(report: Mapping[str, Any], kept: Mapping[int, str]) -> list[Row]:
    """The versions of a report that there still are, oldest first, then the present.

    Args:
        report: As `report.to_json` writes it.
        kept: Number -> name of each version that is kept now.
    """
    found = {}
    for one in report["sharing"]["candidates"]:
        against = one["against_none"] or {}
        change, ends = against.get("difference"), against.get("ci95")
        name = "now" if one["name"] == "now" else one["round"]
        gain = None if change is None else _gain(change)
        both = None if ends is None else (_gain(ends[1]), _gain(ends[0]))
        found[name] = gain, both
    order = sorted(kept, key=lambda number: (number >= 0, abs(number)))
    nothing = (None, None)
    made = [Row(kept[n], n, *found.get(n, nothing)) for n in order]
    return [*made, Row("now", None, *found.get("now", nothing))]


def _gain(difference: float) -> float:
    """A difference of losses, in nats per token, as per cent of perplexity."""
    return -100.0 * math.expm1(min(difference, 5.0))


def told(gain: float) -> str:
    """`3.21` -> "3.2 % better"."""
    return f"{abs(gain):.1f} % {'better' if gain >= 0 else 'worse'}"


ANSWERS = {
    "helps": "Yes.",
    "hurts": "No.",
    "undecided": "It cannot be told.",
    "unknown": "It could not be measured.",
}


def answer(report: Mapping[str, Any], now: Row, name: str) -> str:
    """The answer, in a sentence or two."""
    begun = ANSWERS.get(report["sharing"]["answer"], ANSWERS["unknown"])
    if now.gain is None:
        return begun
    between = ""
    if now.ends is not None:
        between = f", somewhere between {told(now.ends[0])} and {told(now.ends[1])}"
    return (
        f"{begun} With everyone's half as it is now, “{name}” is {told(now.gain)} at "
        f"guessing your own held-out text than with nothing shared{between}."
    )


def drawn(found: Measured, kept: Mapping[int, str], name: str) -> str:
    """What is known of how much sharing has helped, with a way back to each version.

    Args:
        found: What was measured.
        kept: Number -> name of each version that is kept.
        name: What the run is called.
    """
    report = found.report or {"sharing": {"candidates": [], "answer": "unknown"}}
    listed = rows(report, kept)
    parts = []
    if found.report is None:
        parts.append(render.note(UNKNOWN))
    else:
        text = escape(answer(report, listed[-1], name))
        parts.append(f'<p class="cm-says">{text}</p>')
    if found.running:
        parts.append('<p class="cm-note cm-busy">Reading your held-out text.</p>')
    elif found.outdated:
        parts.append(render.note("It has changed since this was measured: look again."))
    if found.problem is not None:
        parts.append(render.problem(words.page(found.problem)))
    return "".join(parts) + _list(listed)


def _list(listed: list[Row]) -> str:
    """Every version as a row: its name, its interval, a button to go back to it."""
    spans = [abs(v) for row in listed for v in (row.gain, *(row.ends or ())) if v]
    most = min(max([LEAST, *spans]), MOST)
    axis = ""
    if any(row.gain is not None for row in listed):
        axis = (
            '<li class="cm-axis" aria-hidden="true"><span></span><span class="cm-ends">'
            f"<i>{most:.0f} % worse</i><i>nothing shared</i><i>{most:.0f} % better</i>"
            "</span></li>"
        )
    items = "".join(_item(row, most) for row in listed)
    return f'<ul class="cm-past" aria-label="What is kept here">{axis}{items}</ul>'


def _item(row: Row, most: float) -> str:
    label, text = escape(row.label), ""
    if row.gain is not None:
        text = told(row.gain)
        if row.ends is not None:
            text += f" ({told(row.ends[0])} to {told(row.ends[1])})"
    button = ""
    if row.number is not None:
        button = (
            f'<button type="button" class="cm-act" data-back="{row.number}" '
            f'aria-label="Go back to what it had {label}">Go back</button>'
        )
    here = ' aria-current="true"' if row.number is None else ""
    return (
        f"<li{here}><span>{label[:1].upper()}{label[1:]}</span>{_picture(row, most)}"
        f'<span class="cm-soft">{text}</span>{button}</li>'
    )


def _picture(row: Row, most: float) -> str:
    """The interval as a line, its middle as a dot; zero is nothing shared."""
    if row.gain is None:
        return "<span></span>"
    low, high = row.ends or (row.gain, row.gain)
    decided = "b" if low > 0 else "w" if high < 0 else "n"
    left, dot, right = (_place(v, most) for v in (low, row.gain, high))
    middle = HEIGHT / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true" data-kind="{decided}">'
        f'<path class="cm-zero" d="M{WIDTH / 2} 0V{HEIGHT}"/>'
        f'<path class="cm-whisker" d="M{left:.1f} {middle}H{right:.1f}"/>'
        f'<circle cx="{dot:.1f}" cy="{middle}" r="5"/></svg>'
    )


def _place(gain: float, most: float) -> float:
    share = max(-1.0, min(gain / most, 1.0))
    return WIDTH / 2 + share * (WIDTH / 2 - 8)
