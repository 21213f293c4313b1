"""The folder of a simulation's results.

OUT/config.yaml, identity.json           the options, base model and text
OUT/rounds/<method>-seed-<s>.jsonl       one line a round, as they come
OUT/runs/<method>-seed-<s>.json          the outcome of one method and seed
OUT/results.json, results.md, .csv       the table, written anew after each of them
OUT/state/<method>-seed-<s>/             the state for --resume (`checkpoint`)
OUT/.claims/                             who computes what (`claims`)
OUT/.<method>-seed-<s>-<token>/          what has no room in memory, while it runs

Several processes may write here at once, on several machines: each only what belongs to
the method and seed that it has claimed, and the tables, which are written whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comigs_mlx import json_files
from comigs_mlx.config import dump_yaml, from_dict, read_yaml, to_dict
from comigs_mlx.errors import ConfigError, RunError, raise_all, reading
from comigs_mlx.files import LEFTOVER, sweep_names, write_json, write_text
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
    "memory_limit",
    "backend",
    "worker",
}
"""The options that may differ when a simulation is resumed."""

NO_RESULT = {"resume", "worker", "backend", "memory_limit"}
"""The options that say nothing about a result."""

DAY = 24 * 3600.0
"""The seconds after which an unfinished file belongs to a killed process."""


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
        """Keep other commands out, and write the options and the identity.

        Where the file system has no locks, two commands may be here at once: the claims
        to methods and seeds keep them apart.

        Args:
            identity: The digests of base model and text, which must be the same when
                resumed.

        Raises:
            RunError: If another process writes here, or the identity differs.
        """
        with locked(self.path, "--out", needed=False):
            self.check_identity(identity)
            self._sweep_old()
            write_json(self.path / "identity.json", dict(identity))
            resumable = dataclasses.replace(self.config, resume=False)
            write_text(self.path / "config.yaml", dump_yaml(resumable))
            yield

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Raise `RunError` if it was begun with another base model or text."""
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

    def begun_with(self, own: SimulateConfig) -> SimulateConfig:
        """Return the options that the folder was made with, for who joins in.

        Args:
            own: The options of who joins in: where the text and the base model lie
                here, and what concerns this process alone.

        Raises:
            RunError: If no simulation was begun here.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise RunError(
                f"{self.path} has no simulation: begin it with --users and --method, "
                "and then start workers"
            )
        begun = from_dict(SimulateConfig, read_yaml(file))
        there = SimulateConfig()
        return dataclasses.replace(
            begun,
            out=own.out,
            users=own.users or begun.users,
            model=own.model if own.model != there.model else begun.model,
            jobs=own.jobs,
            memory_limit=own.memory_limit,
            backend=own.backend,
            worker=True,
            caffeinate=own.caffeinate,
        )

    def scratch(self, method: str, seed: int, token: str) -> Path:
        """Return a folder for a process's own files while it computes a task.

        It is one of the names that `sweep` removes if the process is killed.
        """
        return self.path / f".{task_name(method, seed)}-{token}"

    def sweep(self, method: str, seed: int) -> None:
        """Remove what killed processes left of a method and seed, or put it back."""
        name = task_name(method, seed)
        for folder in (
            self.path,
            *(self.path / f for f in ("state", "rounds", "runs")),
        ):
            sweep_names(folder, name)

    def _sweep_old(self) -> None:
        """Remove what killed processes left beside the tables, a day ago or longer.

        Others may be writing there now.
        """
        for file in self.path.glob(".*-*"):
            with contextlib.suppress(OSError):
                age = time.time() - file.stat().st_mtime
                if LEFTOVER.fullmatch(file.name) and file.is_file() and age > DAY:
                    file.unlink()

    def state(self, method: str, seed: int) -> Path:
        """Return the folder where a method and seed are saved while they run."""
        return self.path / "state" / task_name(method, seed)

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
        return self.path / "runs" / f"{task_name(method, seed)}.json"

    def add_round(self, record: RoundDone) -> None:
        """Append one line to the rounds of a method and seed."""
        file = self._rounds(record.method, record.seed)
        file.parent.mkdir(exist_ok=True)
        add_line(file, dataclasses.asdict(record))

    def cut_rounds(self, method: str, seed: int, last: int) -> None:
        """Drop the rounds after `last` of one method and seed, and a line cut off."""
        cut_lines(self._rounds(method, seed), "round", last)

    def rounds(self, method: str, seed: int) -> list[dict[str, Any]]:
        """Return all whole lines of a method and seed, each round once."""
        lines = [line for line, _ in reports(self._rounds(method, seed), "round")]
        return list({line["round"]: line for line in reversed(lines)}.values())[::-1]

    def _rounds(self, method: str, seed: int) -> Path:
        return self.path / "rounds" / f"{task_name(method, seed)}.jsonl"

    def write_results(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Write the table of all that is done, in three forms.

        Others may do the same at once: whoever writes last sees what all have done.
        """
        config = {n: v for n, v in to_dict(self.config).items() if n not in NO_RESULT}
        while True:
            done = self._done()
            outcomes = [one for pair in done if (one := self.outcome(*pair))]
            table = results.results(outcomes, config, environment)
            write_json(self.path / "results.json", table)
            write_text(self.path / "results.md", report.markdown(table))
            write_text(self.path / "results.csv", report.comma_separated(table))
            if self._done() == done:
                return table

    def _done(self) -> list[tuple[str, int]]:
        """List the methods and seeds of the options that have an outcome."""
        pairs = itertools.product(self.config.methods, self.config.seed_list)
        return [pair for pair in pairs if self._run(*pair).is_file()]


def _plain(config: SimulateConfig) -> dict[str, Any]:
    """Return the options as a YAML file has them: with lists in place of tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in to_dict(config).items()
    }


def task_name(method: str, seed: int) -> str:
    """Return the common part of the file names of a method and seed."""
    return f"{method}-seed-{seed}"
