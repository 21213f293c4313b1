"""Runs a program and all that it starts, and ends them with whoever started this.

    python -m comigs_mlx.federation.flower.supervised PROGRAM ARGUMENT...

A program of Flower starts others, which it leaves behind when it is killed. This one
holds them in a group of their own, and waits for the end of its standard input: that
comes when the process that holds the other end has ended, in whatever way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

GRACE_SECONDS = 5.0
"""The seconds between asking a group to end and ending it."""


def main(argv: Sequence[str]) -> int:
    """Run a program until it ends, or standard input does; its exit status."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter decides what it means
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _signal(child.pid, number))
    threading.Thread(target=_end_with_input, args=[child], daemon=True).start()
    status = child.wait()
    _signal(child.pid, signal.SIGKILL)
    return status


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _signal(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(child.pid, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
