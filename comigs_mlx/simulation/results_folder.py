"""The folder of a simulation's results.

OUT/config.yaml, identity.json           the options, base model and text
OUT/rounds/<method>-seed-<s>.jsonl       one line a round, as they come
OUT/runs/<method>-seed-<s>.json          the outcome of one method and seed
OUT/results.json, results.md, .csv       the table, written anew after each of them
OUT/state/<method>-seed-<s>/             the state for --resume (`checkpoint`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comigs_mlx import json_files
from comigs_mlx.config import dump_yaml, read_yaml, to_dict
from comigs_mlx.errors import ConfigError, RunError, raise_all, reading
from comigs_mlx.files import sweep, write_json, write_text
from comigs_mlx.runs.place import add_line, cut_lines, locked, reports
from comigs_mlx.simulation import report, results
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.records import Outcome, RoundDone

FREE = {
    "method",
    "seeds",
    "resume",
    "out",
    "jobs",
    "caffeinate",
    "plots",
    "save_every",
    "token_cache",
}
"""The options that may differ when a simulation is resumed."""


class ResultsFolder:
    """The folder that a simulation writes to; opening it reads nothing."""

    def __init__(self, config: SimulateConfig):
        self.config, self.path = config, config.folder

    def check(self) -> None:
        """Raise `RunError` or `ConfigError` unless it can begin, or go on."""
        saved = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose a folder with --out")
        visible = self.path.is_dir() and any(
            file.name[0] != "." for file in self.path.iterdir()
        )
        if not self.config.resume and visible:
            raise RunError(
                f"{self.path} exists: add --resume to go on, or choose another --out"
            )
        if self.config.resume and saved.is_file():
            self._check_same(read_yaml(saved))

    def _check_same(self, saved: Mapping[str, Any]) -> None:
        now, usual = (_plain(config) for config in (self.config, SimulateConfig()))
        # A version without an option behaved as the option's default does now.
        saved = {**usual, **saved}
        raise_all(
            ConfigError,
            [
                f"--resume goes on as it began: --{name.replace('_', '-')} is "
                f"{saved[name]!r} there, {value!r} here; use another --out"
                for name, value in now.items()
                if name not in FREE and saved[name] != value
            ],
        )

    @contextlib.contextmanager
    def in_use(self, identity: Mapping[str, str]) -> Iterator[None]:
        """Keep other processes out, and write the options and the identity.

        Args:
            identity: The digests of base model and text, which must be the same when
                resumed.

        Raises:
            RunError: If another process writes here, or the identity differs.
        """
        with locked(self.path, "--out"):
            self._check_identity(identity)
            sweep(self.path)
            write_json(self.path / "identity.json", dict(identity))
            resumable = dataclasses.replace(self.config, resume=False)
            write_text(self.path / "config.yaml", dump_yaml(resumable))
            yield

    def _check_identity(self, identity: Mapping[str, str]) -> None:
        file = self.path / "identity.json"
        if not file.is_file():
            return
        before = json_files.read(file, RunError, "use another --out")
        changed = [name for name in identity if before.get(name) != identity[name]]
        if changed:
            raise RunError(
                f"{self.path} was begun with another {' and '.join(changed)}: use "
                "another --out"
            )

    def state(self, method: str, seed: int) -> Path:
        """Return the folder where a method and seed are saved while they run."""
        return self.path / "state" / _pair(method, seed)

    def outcome(self, method: str, seed: int) -> Outcome | None:
        """Return the outcome of a method and seed, if they are done."""
        file = self._run(method, seed)
        if not file.is_file():
            return None
        advice = "remove it to run this method and seed again"
        with reading(file, RunError, advice):
            return Outcome(**json_files.read(file, RunError, advice))

    def add(self, outcome: Outcome) -> None:
        """Write the outcome of one method and seed; drop their saved state."""
        file = self._run(outcome.method, outcome.seed)
        write_json(file, dataclasses.asdict(outcome))
        shutil.rmtree(self.state(outcome.method, outcome.seed), ignore_errors=True)

    def _run(self, method: str, seed: int) -> Path:
        return self.path / "runs" / f"{_pair(method, seed)}.json"

    def add_round(self, record: RoundDone) -> None:
        """Append one line to the rounds of a method and seed."""
        file = self._rounds(record.method, record.seed)
        file.parent.mkdir(exist_ok=True)
        add_line(file, dataclasses.asdict(record))

    def cut_rounds(self, method: str, seed: int, last: int) -> None:
        """Drop the rounds after `last` of one method and seed, and a line cut off."""
        cut_lines(self._rounds(method, seed), "round", last)

    def rounds(self, method: str, seed: int) -> list[dict[str, Any]]:
        """Return all whole lines of a method and seed."""
        return [line for line, _ in reports(self._rounds(method, seed), "round")]

    def _rounds(self, method: str, seed: int) -> Path:
        return self.path / "rounds" / f"{_pair(method, seed)}.jsonl"

    def write_results(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Write the table of all that is done, in three forms."""
        outcomes = [
            outcome
            for method in self.config.methods
            for seed in self.config.seed_list
            if (outcome := self.outcome(method, seed)) is not None
        ]
        config = {n: v for n, v in to_dict(self.config).items() if n != "resume"}
        table = results.results(outcomes, config, environment)
        write_json(self.path / "results.json", table)
        write_text(self.path / "results.md", report.markdown(table))
        write_text(self.path / "results.csv", report.comma_separated(table))
        return table


def _plain(config: SimulateConfig) -> dict[str, Any]:
    """Return the options as a YAML file has them: with lists in place of tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in to_dict(config).items()
    }


def _pair(method: str, seed: int) -> str:
    """Return the common part of the file names of a method and seed."""
    return f"{method}-seed-{seed}"
