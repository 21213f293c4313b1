"""Keeps a Mac awake while a long run lasts.

A lit display is not asked for: macOS ends GPU work that disturbs what is drawn on it
(see `errors.is_gpu_watchdog`), and with the display asleep there is nothing to disturb.
Source: ml-explore/mlx issue 3267.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from comigs_mlx.messages import Say
from comigs_mlx.platform.mac import commands

SAID = (
    "this Mac stays awake until the run has ended (caffeinate -is; --no-caffeinate "
    "leaves that to you); the display may sleep, a closed lid sleeps all the same"
)


@contextlib.contextmanager
def awake(
    wanted: bool, say: Say, start: Callable[[Sequence[str]], Any] = commands.start
) -> Iterator[None]:
    """Keep the Mac awake as long as the block lasts.

    `-i` prevents idle sleep, `-s` also on AC power any other, and `-w` ends the helper
    with this process, however that ends.

    Args:
        wanted: Whether to do it at all.
        say: It is told once, where the Mac is kept awake.
        start: It starts a command beside this process; None where it could not.
    """
    argv = ["/usr/bin/caffeinate", "-is", "-w", str(os.getpid())]
    helper = start(argv) if wanted else None
    if helper is None:
        yield
        return
    say(SAID)
    try:
        yield
    finally:
        helper.terminate()
        helper.wait()
