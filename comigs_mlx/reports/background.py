"""Measures a run in another process, and keeps its last report; needs no MLX.

A report loads the base model a second time and takes minutes, so that a user interface
has it made beside itself, by `python -m comigs_mlx.report --json`. What it found stays
in RUN/state/report.json, with the step and the generalist that it is of: what the run
has learnt or fetched since is not in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from comigs_mlx.errors import ComigsError, RunError
from comigs_mlx.federation.participant import membership
from comigs_mlx.files import write_text
from comigs_mlx.json_files import read as read_json
from comigs_mlx.runs import listing

REPORT, ADVICE = "report.json", "measure the run again"
MOST_SAID = 300


@dataclass(frozen=True)
class Measured:
    """What is known of measuring a run.

    Attributes:
        running: Whether it is being measured right now.
        report: The last report, as `report.to_json` writes it; None: there is none.
        outdated: Whether the run has learnt or fetched something since.
        problem: Why the last try found nothing; None where it did, or was not made.
    """

    running: bool = False
    report: dict[str, Any] | None = None
    outdated: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    out: BinaryIO
    said: BinaryIO
    of: dict[str, Any]

    def close(self) -> None:
        """Give back what it wrote to."""
        self.out.close()
        self.said.close()


_children: dict[Path, _Child] = {}
_problems: dict[Path, str] = {}


def start(run: Path) -> None:
    """Begin to measure a run, on its own held-out text; a second call does nothing.

    Raises:
        RunError: If it has nothing saved yet.
    """
    key = run.resolve()
    if key in _children:
        return
    if (of := _of(run))["step"] is None:
        raise RunError(f"{run} has nothing saved yet: train it first")
    _problems.pop(key, None)
    out, said = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    command = [sys.executable, "-m", "comigs_mlx.report", "--run", str(run), "--json"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=said
    )
    _children[key] = _Child(process, out, said, of)


def stop(run: Path) -> None:
    """End what measures a run; the last report stays."""
    if (child := _children.pop(run.resolve(), None)) is not None:
        child.process.terminate()
        child.process.wait()
        child.close()


def measured(run: Path) -> Measured:
    """What is known of a run: its last report, or that one is being made."""
    key = run.resolve()
    child = _children.get(key)
    if child is not None and child.process.poll() is not None:
        _children.pop(key, None)
        _finish(run, child)
        child.close()
        child = None
    kept = _read(run)
    return Measured(
        running=child is not None,
        report=None if kept is None else kept["report"],
        outdated=kept is not None and kept["of"] != _of(run),
        problem=_problems.get(key),
    )


def _finish(run: Path, child: _Child) -> None:
    """Keep what a process has found, or why it has not."""
    child.out.seek(0)
    try:
        report = json.loads(child.out.read())
    except ValueError:
        child.said.seek(0)
        lines = child.said.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it ended")
        _problems[run.resolve()] = last.removeprefix("error: ")[:MOST_SAID]
        return
    file = run / "state" / REPORT
    file.parent.mkdir(exist_ok=True)
    kept = {"format_version": 1, "of": child.of, "report": report}
    write_text(file, json.dumps(kept))


def _read(run: Path) -> dict[str, Any] | None:
    """The kept report; None where there is none, or it cannot be read."""
    try:
        kept = read_json(run / "state" / REPORT, RunError, ADVICE, version=1)
    except ComigsError:
        return None
    known = isinstance(kept.get("of"), dict) and isinstance(kept.get("report"), dict)
    return kept if known else None


def _of(run: Path) -> dict[str, Any]:
    """What a run is measured with now."""
    record = membership.read(run)
    return {
        "step": listing.entry(run).step,
        "round": None if record is None else record.round,
        "generalist": None if record is None else record.generalist,
    }
