"""Shows a notification on a Mac: a run's name and how it stands, never any text.

Name and state are arguments of the script, not parts of it: a folder's name can hold
quotation marks, and AppleScript can run commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from comigs_mlx.platform.mac import commands

SCRIPT = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)
TITLE = "CoMiGS"


def show(
    run: str,
    state: str,
    output: Callable[[Sequence[str]], str | None] = commands.output,
) -> None:
    """Show that a run has come to a state; where it cannot be shown, nothing happens.

    Args:
        run: The name of the run's folder.
        state: A few words of this program, such as "training is done".
        output: It runs a command.
    """
    script = [word for line in SCRIPT for word in ("-e", line)]
    # `osascript` takes no options after its first argument, so no name is one.
    output(["/usr/bin/osascript", *script, TITLE, f"{run}: {state}"])
