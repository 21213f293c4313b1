"""RUN/progress.json: how far a training is, for other programs; no MLX.

    {"format_version": 1, "step": 17, "steps": 24, "eta_seconds": 42.5}

`step` counts expert steps, and `eta_seconds` is null until a step was timed. While the
training pauses there is also `"state": "paused: on battery 24 %"`. The file
is there only while a training runs, or after it was killed. Nothing parses what a
training prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from comigs_mlx import json_files

FILE = "progress.json"
SECONDS = 1.0
"""The least time between two writes, which must not slow the training down."""


class ProgressFile:
    """Writes progress.json while a training runs, and removes it at the end."""

    def __init__(self, run: Path, events: int, steps: int):
        """Remember what will be counted; nothing is written yet.

        Args:
            run: The run's folder.
            events: The number of times that `advance` will be called, for all levels.
            steps: The expert steps in all, those before a resume included.
        """
        self._file = run / FILE
        self._events, self._steps = events, steps
        self._done, self._began, self._written = 0, 0.0, 0.0
        self._paused: float | None = None

    def advance(self, step: int) -> None:
        """Record that a step of a level, and `step` expert steps so far, are done."""
        now = time.monotonic()
        self._done += 1
        self._began = self._began or now  # the first step also compiles: not typical
        if now - self._written >= SECONDS or self._done == self._events:
            self._written = now
            self._write(step, self._seconds_left(now))

    def pause(self, step: int, reason: str) -> None:
        """Record that the training waits after `step` expert steps, and why."""
        now = time.monotonic()
        self._paused = self._paused or now
        self._write(step, self._seconds_left(self._paused), f"paused: {reason}")

    def go_on(self, step: int) -> None:
        """Record that the training goes on; the pause does not count as work."""
        now = time.monotonic()
        if self._paused is not None and self._began:
            self._began += now - self._paused
        self._paused = None
        self._write(step, self._seconds_left(now))

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _seconds_left(self, now: float) -> float | None:
        if self._done < 2:
            return None
        step_seconds = (now - self._began) / (self._done - 1)
        return step_seconds * max(self._events - self._done, 0)

    def _write(self, step: int, eta: float | None, state: str | None = None) -> None:
        content: dict[str, Any] = {"step": step, "steps": self._steps}
        content["eta_seconds"] = eta
        if state is not None:
            content["state"] = state
        replace_unflushed(self._file, {"format_version": 1, **content})


def replace_unflushed(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, for programs that look while a training runs.

    It is not flushed to the disk: after a power cut nobody needs it. A full disk stops
    nothing.
    """
    temporary = file.with_name(f".{file.name.lstrip('.')}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(temporary, file)


def read(run: Path, since: float = 0.0) -> dict[str, Any]:
    """Read progress.json; return {} where there is none that can be read.

    Args:
        run: The run's folder.
        since: Seconds since the epoch; a file that is older is of another training.
    """
    file = run / FILE
    try:
        fresh = file.stat().st_mtime >= since
    except OSError:
        return {}
    return json_files.known(file) if fresh else {}
