"""Draws the pictures of a report as inline SVG; every text in them is escaped.

Colours come from the page's classes: `shared` (generalists), `own` (specialists) and
`plain`, so that a picture is readable in light and in dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WIDTH, LEFT, RIGHT = 720, 190, 24
"""The width of a picture, and what its labels and its edge take of it."""

ROW, HEAD, FOOT = 28, 14, 46
"""The heights of a row, and of what is above and below all rows."""

CURVE = 260
"""The height of a curve's picture."""

MARGIN = 60
"""What a curve's labels take at its left."""


class Mark(NamedTuple):
    """One row of `intervals`: a value, and its interval where there is one."""

    label: str
    value: float
    interval: tuple[float, float] | None
    kind: str


class Line(NamedTuple):
    """One line of `curves`: a value a block; None leaves a gap."""

    label: str
    values: Sequence[float | None]
    kind: str


def intervals(marks: Sequence[Mark], title: str, axis: str) -> str:
    """Draw differences around a line at 0, one row each, with their intervals.

    Args:
        marks: The rows, top to bottom; at least one.
        title: The words for those who do not see the picture.
        axis: The words below the axis.
    """
    ends = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    low, high = _widened(min(0.0, *ends), max(0.0, *ends))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    bottom = HEAD + ROW * len(marks)
    parts = []
    for tick in ticks(low, high):
        kind, number = ("", f"{tick:+.3g}") if tick else (' class="zero"', "0")
        parts.append(
            f'<line{kind} x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{HEAD}" '
            f'y2="{bottom}"/>{_text(x(tick), bottom + 18, number, "axis")}'
        )
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 38, axis, "axis"))
    for row, mark in enumerate(marks):
        y = HEAD + ROW * (row + 0.5)
        parts.append(_text(LEFT - 12, y + 4, _short(mark.label, 26), "", "end"))
        if mark.interval is not None:
            start, end = map(x, mark.interval)
            parts.append(
                f'<line class="{mark.kind} error" x1="{start:.1f}" x2="{end:.1f}" '
                f'y1="{y}" y2="{y}"/>'
            )
        at = f'cx="{x(mark.value):.1f}" cy="{y}"'
        parts.append(f'<circle class="{mark.kind}" {at} r="5"/>')
    return _picture(bottom + FOOT, title, parts)


def curves(lines: Sequence[Line], labels: Sequence[str], title: str, axis: str) -> str:
    """Draw one curve a line over blocks, first to last, from 0 up.

    Args:
        lines: The curves, all as long as `labels`.
        labels: The short name of each block.
        title: The words for those who do not see the picture.
        axis: The words above the axis at the left.
    """
    known = [v for line in lines for v in line.values if v is not None]
    high = _widened(0.0, max(known, default=0.0))[1]
    top, bottom = HEAD + 24, CURVE - FOOT

    def x(block: int) -> float:
        inside = WIDTH - MARGIN - RIGHT
        return MARGIN + inside * (block + 0.5) / max(len(labels), 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / high

    parts = [_text(12, HEAD + 6, axis, "axis", "start")]
    for tick in ticks(0.0, high):
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/>'
            f"{_text(MARGIN - 8, y(tick) + 4, f'{tick:.3g}', 'axis', 'end')}"
        )
    every = math.ceil(len(labels) / 24)
    for block, label in enumerate(labels):
        if block % every == 0:
            parts.append(_text(x(block), bottom + 18, _short(label, 8), "axis"))
    parts.append(_text((MARGIN + WIDTH - RIGHT) / 2, bottom + 38, "block", "axis"))
    place = WIDTH - RIGHT
    for line in lines:
        for run in _runs(line.values):
            points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in run)
            parts.append(f'<polyline class="{line.kind}" points="{points}"/>')
            parts += (
                f'<circle class="{line.kind}" cx="{x(i):.1f}" cy="{y(v):.1f}" r="3"/>'
                for i, v in run
            )
        words = _short(line.label, 34)
        parts.append(_text(place, HEAD + 6, words, f"{line.kind} words", "end"))
        place -= 8 * len(words) + 24
    return _picture(CURVE, title, parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about as many as asked for."""
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step if number else 0.0 for number in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Leave some room at both ends; a range of nothing becomes a small one."""
    if high - low < 1e-9:
        return low - 1e-3, high + 1e-3
    room = 0.08 * (high - low)
    return low - room, high + room


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Yield the parts of a curve that have no gap."""
    run: list[tuple[int, float]] = []
    for block, value in enumerate(values):
        if value is not None:
            run.append((block, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    name = f' class="{kind}"' if kind else ""
    return (
        f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _short(text: str, most: int) -> str:
    """The end of a long text says more of a path than its beginning."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _picture(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        '<div class="wide" tabindex="0">'
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg></div>'
    )
