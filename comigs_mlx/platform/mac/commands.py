"""Runs the system's commands on a Mac; on other systems none is run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from comigs_mlx.platform import switch

SECONDS = 5.0
"""The longest that a question to the system may take; they take some 50 ms."""


def output(argv: Sequence[str]) -> str | None:
    """Run a command to its end and return what it printed.

    Args:
        argv: The path of the command and its arguments; no shell reads them.

    Returns:
        Its stdout; None where this is no Mac, or the command failed or took too long.
    """
    if not switch.macos():
        return None
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def start(argv: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """Start a command that goes on beside this process, without input or output.

    Args:
        argv: The path of the command and its arguments; no shell reads them.

    Returns:
        The process; None where this is no Mac, or it could not be started.
    """
    if not switch.macos():
        return None
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            list(argv), stdin=nowhere, stdout=nowhere, stderr=nowhere
        )
    except OSError:
        return None
