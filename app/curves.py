"""Line charts as inline SVG: no script, no library, drawn where the numbers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
HUES = ("a", "b", "c", "d", "e")
"""Classes of the lines, coloured and dashed in page.css."""

MOST_POINTS = 400
"""Points drawn in one line; of more, evenly chosen ones."""


LEAST_POINTS = 2
"""Points that a line needs: one alone has no axis that means anything."""


@dataclass(frozen=True)
class Scale:
    """Values -> pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def chart(
    title: str,
    lines: Mapping[str, Points],
    x: str,
    y: str,
    least: float = 0.0,
    bounds: tuple[float, float] | None = None,
) -> str:
    """A line chart with a legend, or a sentence where there is nothing to draw.

    Args:
        title: What it shows, also for screen readers.
        lines: Name -> points; what is not finite is left out.
        x: Name of the horizontal axis.
        y: Name of the vertical one.
        least: What the vertical axis spans at least, so that noise looks small.
        bounds: Its ends, where they are known; None: what the values need.
    """
    drawn = {name: _thin(_finite(points)) for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if all(len({x for x, _ in points}) < LEAST_POINTS for points in drawn.values()):
        return f'<p class="cm-note">{escape(title)}: nothing to draw yet.</p>'
    every = [point for points in drawn.values() for point in points]
    across = Scale(*_range([p[0] for p in every], 0.0), LEFT, WIDTH - RIGHT)
    low, high = bounds or _range([p[1] for p in every], 0.08, least)
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    body = [_grid(across, up, x, y)]
    legend = []
    for (name, points), hue in zip(drawn.items(), HUES, strict=False):
        body.append(_line(points, across, up, hue))
        last = f"{name} {points[-1][1]:.3g}"
        legend.append(f'<li><i class="cm-key cm-line-{hue}"></i>{escape(last)}</li>')
    spoken = escape(f"{title}: {_spoken(drawn)}", quote=True)
    return (
        f'<figure class="cm-figure"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">'
        f'{"".join(body)}</svg><ul class="cm-keys">{"".join(legend)}</ul></figure>'
    )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values between two bounds."""
    step = 10 ** math.floor(math.log10((high - low) / about))
    step = next(step * f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= about)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]


def _range(
    values: Sequence[float], margin: float, least: float = 0.0
) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < least:
        middle = (low + high) / 2
        low = max(middle - least / 2, min(low, 0.0))  # no axis below what can be
        high = low + least
    if high - low < 1e-9:
        return low - 0.5, high + 0.5
    room = margin * (high - low)
    return low - room, high + room


def _grid(across: Scale, up: Scale, x: str, y: str) -> str:
    parts = []
    for value in ticks(up.low, up.high):
        at = up(value)
        parts.append(f'<path class="cm-grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="cm-end">{value:g}</text>'
        )
    for value in ticks(across.low, across.high, 6):
        place = f'x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} class="cm-mid">{value:g}</text>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" class="cm-end">{escape(x)}</text>'
        f'<text x="{LEFT + 4}" y="{TOP + 8}">{escape(y)}</text>'
    )
    return "".join(parts)


def _line(points: Points, across: Scale, up: Scale, hue: str) -> str:
    pixels = [(across(a), up(b)) for a, b in points]
    if len(pixels) == 1:
        (left, top) = pixels[0]
        return f'<circle class="cm-dot-{hue}" cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
    path = "L".join(f"{left:.1f} {top:.1f}" for left, top in pixels)
    return f'<path class="cm-line-{hue}" d="M{path}"/>'


def _spoken(lines: Mapping[str, Points]) -> str:
    return "; ".join(
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
        for name, points in lines.items()
    )
