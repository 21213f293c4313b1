"""When a training pauses: on battery under a limit, in heat, in Low Power Mode.

A pause is a save between two steps; training goes on from the very same state, so a
run that paused ends bit for bit as one that did not. Source of the limits: Apple's
"Respond to thermal state changes" asks programs to do less from "serious" on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from comigs_mlx.options import MacOptions
from comigs_mlx.platform import switch
from comigs_mlx.platform.mac import power
from comigs_mlx.platform.mac.power import Power

LOOK_SECONDS = 30.0
"""The time between two looks: each takes the system about 0.1 s."""

STOP_SECONDS = 1.0
"""The time between two looks at whether the user wants to end a pause."""


def reason(state: Power, options: MacOptions) -> str | None:
    """Tell in a few words why a training must pause now; None if it need not.

    Args:
        state: The state of the machine.
        options: The options that say what is a reason.
    """
    if state.battery is not None and state.battery < options.pause_on_battery:
        return f"on battery {state.battery} %"
    if options.pause_on_heat and state.thermal >= power.SERIOUS:
        return f"the Mac is hot (thermal state {power.STATES[state.thermal]})"
    if options.pause_in_low_power_mode and state.low_power:
        return "Low Power Mode is on"
    return None


@dataclass
class Pausing:
    """Looks at the machine from time to time, and waits while there is a reason.

    Attributes:
        options: The options that say what is a reason.
        look: It asks the system for its state.
        clock: It returns the seconds since any fixed moment.
        sleep: It waits for a number of seconds.
    """

    options: MacOptions
    look: Callable[[], Power] = power.look
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float | None = field(default=None, init=False)
    _reason: str | None = field(default=None, init=False)

    def reason(self) -> str | None:
        """Return the reason to pause, as it was at the last look; None if none."""
        now = self.clock()
        if self._next is None or now >= self._next:
            self._next = now + LOOK_SECONDS
            self._reason = reason(self.look(), self.options)
        return self._reason

    def wait(self, stop: Callable[[], bool]) -> Iterator[str]:
        """Wait until there is no reason any more, or the user wants to end.

        Args:
            stop: It is asked every second.

        Yields:
            The reason, at first and whenever it has changed.
        """
        told = None
        while (now := self.reason()) is not None and not stop():
            if now != told:
                yield now
                told = now
            self.sleep(STOP_SECONDS)


def of_this_machine(options: MacOptions) -> Pausing | None:
    """Return what pauses a training here; None where nothing ever will."""
    any_reason = (
        options.pause_on_battery,
        options.pause_on_heat,
        options.pause_in_low_power_mode,
    )
    return Pausing(options) if switch.macos() and any(any_reason) else None
