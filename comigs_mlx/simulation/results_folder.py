"""The folder of a simulation's results.

OUT/config.yaml, identity.json           what was asked, on which base and text
OUT/rounds/<method>-seed-<s>.jsonl       one line a round, as they come
OUT/runs/<method>-seed-<s>.json          what one method and seed came to
OUT/results.json, results.md, .csv       the table, anew after each of them
OUT/state/<method>-seed-<s>/             for --resume (`saving`)
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
    "plots",
    "save_every",
    "token_cache",
}
"""Options that may differ when a simulation is resumed."""


class ResultsFolder:
    """Where a simulation writes; opening it reads nothing."""

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
        # A version that had no such option did what is now its default.
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
        """Keep other processes out, and write down what was asked.

        Args:
            identity: Of base model and text; must be the same when resumed.

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
        """Where a method and seed are saved while they run."""
        return self.path / "state" / _pair(method, seed)

    def outcome(self, method: str, seed: int) -> Outcome | None:
        """What they came to, if they are done."""
        file = self._run(method, seed)
        if not file.is_file():
            return None
        advice = "remove it to run this method and seed again"
        with reading(file, RunError, advice):
            return Outcome(**json_files.read(file, RunError, advice))

    def add(self, outcome: Outcome) -> None:
        """Write what one method and seed came to; drop their saved state."""
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

    def cut_rounds(self, method: str, seed: int, kept: int) -> None:
        """Drop the rounds after `kept` of one method and seed, and a torn line."""
        cut_lines(self._rounds(method, seed), "round", kept)

    def rounds(self, method: str, seed: int) -> list[dict[str, Any]]:
        """All whole lines of a method and seed."""
        return [found for found, _ in reports(self._rounds(method, seed), "round")]

    def _rounds(self, method: str, seed: int) -> Path:
        return self.path / "rounds" / f"{_pair(method, seed)}.jsonl"

    def write_results(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """The table of all that is done, in three forms."""
        done = [
            outcome
            for method in self.config.methods
            for seed in self.config.seed_list
            if (outcome := self.outcome(method, seed)) is not None
        ]
        config = {n: v for n, v in to_dict(self.config).items() if n != "resume"}
        found = results.results(done, config, environment)
        write_json(self.path / "results.json", found)
        write_text(self.path / "results.md", report.markdown(found))
        write_text(self.path / "results.csv", report.comma_separated(found))
        return found


def _plain(config: SimulateConfig) -> dict[str, Any]:
    """The options as a YAML file has them: with lists in place of tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in to_dict(config).items()
    }


def _pair(method: str, seed: int) -> str:
    """What the files of a method and seed are called after."""
    return f"{method}-seed-{seed}"
