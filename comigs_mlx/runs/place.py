"""The paths of a run on disk, and whether a process trains there; needs no MLX."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comigs_mlx.config import from_dict, read_yaml
from comigs_mlx.errors import RunError, line
from comigs_mlx.expert_shape import ADAPTER, generalist_folders
from comigs_mlx.files import LEFTOVER, restore, write_text
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs import description, versions
from comigs_mlx.runs.description import WRITE_AGAIN as WRITE_AGAIN

LOCK = ".lock"
LOCK_SECONDS = 0.2
"""The wait for a lock, which `is_locked` may hold for some microseconds."""

WITHOUT_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)
"""The errors of file systems that have no locks, as some network shares."""

EMPTY = re.compile(
    rf"\.lock|\.train\.(json|log|lock|told\.json(\.tmp)?)|\.DS_Store|{LEFTOVER.pattern}"
)
"""The files that a new run's folder may hold: those that this program leaves when
it is killed right at its start. Any other hidden file is the user's, as in a home
folder.
"""

SPECIALISTS = "specialist/experts.safetensors"
ROUTERS = "router/router.safetensors"

VALUES = ("comigs.json", "*/*.safetensors", "best/*/*/*.safetensors")
"""The files that say what a run's experts are, in use and in the best save."""


def value_files(folder: Path, generalists: int) -> list[Path]:
    """List the files of all experts and routers in a folder, generalists first."""
    adapters = [folder / name / ADAPTER for name in generalist_folders(generalists)]
    return [*adapters, folder / SPECIALISTS, folder / ROUTERS]


class Place:
    """The paths of a run's folder; opening it reads nothing."""

    def __init__(self, path: Path | str):
        self.path = Path(path).expanduser()
        self.states = self.path / "state"
        self.metrics = self.path / "metrics.jsonl"
        self.held_out = self.path / "held_out.jsonl"
        self.rounds = self.path / "rounds.jsonl"
        self.config = self.path / "config.yaml"
        self.info = self.path / "comigs.json"
        self.lock = self.path / LOCK

    def check_new(self) -> None:
        """Raise `RunError` if something is in the folder already."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose a folder with --run")
        files = self.path.iterdir() if self.path.exists() else []
        if not all(EMPTY.fullmatch(file.name) for file in files):
            raise RunError(
                f"{self.path} exists: add --resume to continue it, or choose another "
                "folder with --run"
            )

    def check_resumable(self) -> None:
        """Raise `RunError` if no run was begun here."""
        if not self.config.is_file():
            raise RunError(f"nothing to resume: there is no run at {self.path}")

    def check_exists(self) -> None:
        """Raise `RunError` if there is no run here."""
        if not self.info.is_file():
            raise RunError(
                f"no run at {self.path} (expected {self.info.name} in it): train one "
                f"with python -m comigs_mlx.train --run {self.path}"
            )

    def read_config(self) -> TrainConfig:
        """Return the configuration that the run was started with.

        Raises:
            RunError: If the run has none.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path} has no {self.config.name}: it was never begun")
        return from_dict(TrainConfig, read_yaml(self.config))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other processes from training in this folder.

        Saves that a killed process had set aside are put back before anything is read.

        Raises:
            RunError: If another process trains there.
        """
        with locked(self.path, "--run"):
            restore(self.path)
            versions.finish(self.path)
            yield

    def settle(self) -> bool:
        """Complete a change of the whole run that a killed process had decided.

        Returns:
            Whether there was one; it may be left where another process is at work.
        """
        if not versions.is_pending(self.path):
            return False
        with contextlib.suppress(RunError, OSError), self.in_use():
            pass
        return True

    def is_in_use(self) -> bool:
        """Tell whether a process trains in this folder, or changes it, right now."""
        return is_locked(self.lock)

    def read_info(self) -> dict[str, Any]:
        """Read comigs.json.

        Raises:
            RunError: If it is missing, damaged or of another format version.
        """
        self.settle()
        self.check_exists()
        return description.read(self.info)

    def signature(self) -> tuple[Any, ...]:
        """Return a value that differs once a file with values of this run is
        replaced.
        """
        facts = []
        for pattern in VALUES:
            for file in sorted(self.path.glob(pattern)):
                with contextlib.suppress(FileNotFoundError):
                    s = file.stat()
                    facts.append((str(file), s.st_ino, s.st_size, s.st_mtime_ns))
        return tuple(facts)

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`, and one that a killed process cut off."""
        for file in (self.metrics, self.rounds, self.held_out):
            cut_lines(file, "step", step)


def reports(file: Path, key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a JSONL file that have a number `key`, each with its line.

    A last line that is still being written, or was cut off, is left out.
    """
    if not file.is_file():
        return
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            report = json.loads(text)
            if isinstance(report, dict) and isinstance(report.get(key), int | float):
                yield report, text


def add_line(file: Path, values: Mapping[str, Any], finite: bool = True) -> None:
    """Append one object to a JSONL file.

    Args:
        file: The file, which is made if it is not there.
        values: The object to append.
        finite: Whether to refuse a number that is not finite, for which JSON has no
            form.

    Raises:
        ValueError: If a number is refused; nothing has been written then.
    """
    text = json.dumps(values, allow_nan=not finite)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"{text}\n")


def cut_lines(file: Path, key: str, last: int) -> None:
    """Drop the objects whose number `key` is above `last`, and a line cut off."""
    if file.exists():
        remaining = [text for report, text in reports(file, key) if report[key] <= last]
        write_text(file, "".join(f"{text}\n" for text in remaining))


@contextlib.contextmanager
def locked(folder: Path, flag: str, needed: bool = True) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is not there.

    Args:
        folder: The folder of a run or of a simulation.
        flag: The option that names the folder, for the error.
        needed: Whether nothing else keeps processes apart where the file system has no
            locks.

    Raises:
        RunError: If another process holds the lock, or if the file system has no locks
            and they are needed.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder} is in use by another process: wait for it, or choose another "
            f"folder with {flag}"
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        if not needed:
            yield
            return
        raise RunError(
            f"{folder} is on a file system without locks ({line(error)}): choose a "
            f"folder on a local disk with {flag}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(file: Path) -> bool:
    """Tell whether a process holds the lock of a lock file."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # it may not be opened, or there are no locks: nobody can hold one
        return False
    return False
