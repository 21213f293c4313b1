"""Where a conversation is shown: answers coloured by expert, remarks beside them.

A terminal obeys the control characters that are written to it. Those in a model's text,
or in a file's name, never reach it: `printable` takes them out. The only escape
sequences are the colours that are chosen here.

The colours are those of the page of `inference.trace`: blue for what is shared with
everyone, one of four others for each specialist (Okabe and Ito's). How far a terminal
can show them, rich finds out: not at all where there is no terminal, `TERM` is `dumb`
or `NO_COLOR` is set (no-color.org), else 16 colours, 256 or all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import IO

from comigs_mlx.inference.trace import SPECIALIST
from comigs_mlx.messages import Say

Colour = tuple[int, int, int]

SHARED: Colour = (0, 114, 178)
SPECIALISTS: tuple[Colour, ...] = (
    (230, 120, 0),
    (204, 90, 160),
    (0, 150, 110),
    (150, 110, 220),
)
GREY: Colour = (128, 128, 128)
"""About as readable on black as on white; a weak colour is halfway to it."""

SIXTEEN = dict(zip((SHARED, *SPECIALISTS), (36, 33, 35, 32, 94), strict=True))
"""Their names among 16 colours: the nearest ones are the same for two of them."""

LEAST = 0.25
"""A lean to one side that is shown in full, where the answer has no stronger one: a
router that has learnt nothing leans by a hundredth and must look neutral."""

WEAK, FULL = 1 / 3, 2 / 3
"""Shares of the strongest lean from which a token has a weak and the full colour."""

RESET = "\x1b[0m"

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All control characters (Unicode's category Cc) but the tab and the line end."""


def printable(text: str) -> str:
    """The text without characters that a terminal obeys, such as ESC."""
    return CONTROLS.sub("", text)


def colour_system(stream: IO[str], wanted: bool = True) -> str | None:
    """How many colours a stream shows: "truecolor", "256", "standard" or None.

    Args:
        stream: The stream that the answers are written to.
        wanted: Whether the user wants any.
    """
    from rich.console import Console

    console = Console(file=stream)
    return console.color_system if wanted and not console.no_color else None


def hues(experts: Sequence[str]) -> list[Colour]:
    """The colour of each expert."""
    own = [name for name in experts if name.startswith(SPECIALIST)]
    return [
        SPECIALISTS[own.index(name) % len(SPECIALISTS)] if name in own else SHARED
        for name in experts
    ]


def means(weights: Sequence[Sequence[float]], experts: int) -> list[float]:
    """The mean weight of each expert over the layers.

    Args:
        weights: The weights of one token, `[layers][experts]`; empty where nobody
            routed it.
        experts: The number of experts.
    """
    rows = max(len(weights), 1)
    return [math.fsum(row[e] for row in weights) / rows for e in range(experts)]


def lean(shares: Sequence[float], experts: Sequence[str]) -> float:
    """From -1, the generalists alone, to 1, the specialists alone; 0 is the middle.

    Args:
        shares: The mean weight of each expert; all are 0 for the base alone.
        experts: The names of the experts.
    """
    if not any(shares):
        return 0.0
    pairs = zip(experts, shares, strict=True)
    own = math.fsum(share for name, share in pairs if name.startswith(SPECIALIST))
    return 2 * min(max(own, 0.0), 1.0) - 1


def escape(colour: Colour | None, system: str | None) -> str:
    """The escape sequence that begins a colour; empty for none.

    Args:
        colour: Red, green and blue, up to 255; None is the terminal's own colour.
        system: The colours that the terminal can show; see `colour_system`.
    """
    from rich.color import Color, ColorSystem

    if colour is None or system is None:
        return ""
    if system == "standard":
        return f"\x1b[{SIXTEEN.get(colour, 37)}m"
    found = Color.from_rgb(*colour)
    if system == "256":
        found = found.downgrade(ColorSystem.EIGHT_BIT)
    return f"\x1b[{';'.join(found.get_ansi_codes())}m"


class Tint:
    """Chooses the colours of one answer's tokens.

    They are relative to the strongest lean of the answer so far, as on the page.
    """

    def __init__(self, experts: Sequence[str], system: str | None):
        self._experts, self._system = experts, system
        self._hues, self._strongest = hues(experts), LEAST

    def __call__(self, weights: Sequence[Sequence[float]]) -> str:
        """The escape sequence for a token; empty for one that leans to nobody.

        Args:
            weights: The token's weights, `[layers][experts]`.
        """
        if self._system is None or not self._experts:
            return ""
        shares = means(weights, len(self._experts))
        leaning = lean(shares, self._experts)
        self._strongest = max(self._strongest, abs(leaning))
        strength = abs(leaning) / self._strongest
        if strength < WEAK:
            return ""
        colour = self._leader(shares) if leaning > 0 else SHARED
        if strength < FULL and self._system != "standard":
            colour = _between(colour, GREY)
        return escape(colour, self._system)

    def _leader(self, shares: Sequence[float]) -> Colour:
        """The colour of the specialist with the largest share."""
        own = [e for e, hue in enumerate(self._hues) if hue != SHARED]
        return self._hues[max(own, key=shares.__getitem__)]


def _between(one: Colour, other: Colour) -> Colour:
    red, green, blue = ((a + b) // 2 for a, b in zip(one, other, strict=True))
    return red, green, blue


class Screen:
    """Shows answers piece by piece, and remarks on lines of their own.

    Attributes:
        system: The colours that answers are shown in; see `colour_system`.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        say: Say,
        system: str | None = None,
        remarks: str | None = None,
    ):
        """Show nothing yet.

        Args:
            show: Takes pieces of answers, without a line end of its own.
            say: Takes remarks, one or more lines each.
            system: The colours of the terminal behind `show`.
            remarks: The colours of the terminal behind `say`.
        """
        self._show, self._say = show, say
        self.system, self._remarks = system, remarks
        self._begun, self._colour = False, ""

    def piece(self, text: str, colour: str = "") -> None:
        """Show a piece of an answer.

        Args:
            text: The text; characters that a terminal obeys are left out.
            colour: The escape sequence to show it in.
        """
        if not (text := printable(text)):
            return
        change = "" if colour == self._colour else colour or RESET
        self._show(change + text)
        self._colour, self._begun = colour, not text.endswith("\n")

    def end(self) -> None:
        """End an answer: the terminal's own colour, and a new line."""
        rest = (RESET if self._colour else "") + ("\n" if self._begun else "")
        self._colour, self._begun = "", False
        if rest:
            self._show(rest)

    def note(self, text: str) -> None:
        """Say something beside the conversation, on lines of its own."""
        self.end()
        self._say(printable(text))

    def painted(self, parts: Sequence[tuple[str, Colour | None]], rest: str) -> None:
        """Say a line that begins with coloured parts.

        Args:
            parts: Texts and their colours.
            rest: The rest of the line.
        """
        self.end()
        line = ""
        for text, colour in parts:
            code = escape(colour, self._remarks)
            line += f"{code}{printable(text)}{RESET if code else ''}"
        self._say(line + printable(rest))
