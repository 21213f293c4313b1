"""What a Mac says of its battery, its heat and its Low Power Mode.

`pmset -g batt` and `pmset -g` say the first and the last. Of heat, `pmset -g therm`
tells nothing on Apple silicon. Foundation's public answer, `NSProcessInfo.thermalState`
(0 nominal, 1 fair, 2 serious, 3 critical), is reached through JavaScript for
Automation, which every Mac has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comigs_mlx.platform.mac import commands

Output = Callable[[Sequence[str]], str | None]
"""Runs a command and returns what it printed; None where it could not."""

PMSET = "/usr/bin/pmset"
BATTERY = (PMSET, "-g", "batt")
SETTINGS = (PMSET, "-g")
HEAT = (
    "/usr/bin/osascript",
    "-l",
    "JavaScript",
    "-e",
    "ObjC.import('Foundation'); $.NSProcessInfo.processInfo.thermalState",
)

STATES = ("nominal", "fair", "serious", "critical")
SERIOUS = STATES.index("serious")
"""The thermal state from which Apple asks programs to do less."""

SOURCE = re.compile(r"drawing from '([^']*)'")
CHARGE = re.compile(r"\b(\d{1,3})%")
LOW_POWER = re.compile(r"^\s*(?:lowpowermode|powermode)\s+1\s*$", re.MULTILINE)
"""Newer systems have the one dial `powermode`: 0 automatic, 1 low, 2 high."""


@dataclass(frozen=True)
class Power:
    """The state of a machine; the defaults are those of one that says nothing.

    Attributes:
        battery: The charge in percent while it draws from a battery; None on AC power.
        thermal: The thermal state, an index into `STATES`.
        low_power: Whether Low Power Mode is on.
    """

    battery: int | None = None
    thermal: int = 0
    low_power: bool = False


def look(output: Output = commands.output) -> Power:
    """Ask the system; what it does not say counts as harmless."""
    return Power(
        battery=on_battery(output(BATTERY) or ""),
        thermal=thermal_state(output(HEAT) or ""),
        low_power=LOW_POWER.search(output(SETTINGS) or "") is not None,
    )


def on_battery(text: str) -> int | None:
    """Read the charge in percent from `pmset -g batt`; None where AC power is drawn.

    Of several batteries, such as one of a UPS, the lowest counts.
    """
    source = SOURCE.search(text)
    if source is None or source[1] == "AC Power":
        return None
    return min(map(int, CHARGE.findall(text)), default=None)


def thermal_state(text: str) -> int:
    """Read the thermal state; a value that is not known counts as nominal."""
    state = text.strip()
    known = state.isdecimal() and int(state) < len(STATES)
    return int(state) if known else 0
