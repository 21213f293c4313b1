"""A run changed as a whole, and changed back byte for byte; needs no MLX.

    RUN/before/0001-grow/      what the files of ITEMS were before the first change
    RUN/before/next/old, new   a change that is being written
    RUN/changing.json          {"format_version", "source"}: the change is decided, and
                               RUN takes the files of `source`

Growing or pruning changes shapes, and so all files that hold experts or say what they
are. The new ones are written in full beside the old ones; with changing.json the change
is decided. A process that is killed before leaves the run as it was, one that is killed
after it leaves a change that `finish` completes whenever the run is used next.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx import json_files
from comigs_mlx.errors import RunError
from comigs_mlx.files import replacing, replacing_dir, sweep, write_json

ITEMS = re.compile(
    r"config\.yaml|comigs\.json|metrics\.jsonl"
    r"|generalist(-\d+)?|specialist|router|best"
    r"|state/(step-\d+|descriptors\.safetensors)"
)
"""The paths in a run's folder that a version of it has. What the run and a federation
have exchanged, and the account of its privacy, belong to none: they are never taken
back.
"""

WITNESS = "federation.json"
"""A version remembers it, to tell whether anything was exchanged since."""

BEFORE, NEXT, OLD, NEW = "before", "next", "old", "new"
DECIDED = "changing.json"
ABOUT = "about.json"
FORMAT_VERSION = 1
ENTRY = re.compile(r"\d{4}-[a-z]+")
SOURCE = re.compile(rf"{BEFORE}/({NEXT}/{NEW}|{ENTRY.pattern})")

ADVICE = "remove it: the run is then what its other files say"


@dataclass(frozen=True)
class Version:
    """What a run was before a change.

    Attributes:
        folder: The folder that holds its files.
        command: The command that changed it, such as `grow`.
        step: The training step at which it was changed.
        what: A sentence on the change.
    """

    folder: Path
    command: str
    step: int
    what: str


def versions(run: Path) -> list[Version]:
    """List what a run was before each of its changes, oldest first.

    Raises:
        RunError: If the description of one cannot be read.
    """
    folders = (run / BEFORE).iterdir() if (run / BEFORE).is_dir() else []
    return [_version(path) for path in sorted(folders) if ENTRY.fullmatch(path.name)]


def _version(folder: Path) -> Version:
    file = folder / ABOUT
    about = json_files.read(file, RunError, f"remove {folder}", FORMAT_VERSION)
    match about:
        case {"command": str(command), "step": int(step), "what": str(what)}:
            return Version(folder, command, step, what)
    raise RunError(f"{file} does not describe a change: remove {folder}")


@contextlib.contextmanager
def changing(run: Path, command: str, step: int, what: str) -> Iterator[Path]:
    """Yield an empty folder for the run's new files; at its end the run has them.

    After an exception the run is what it was. Files of `ITEMS` that are not written
    into the folder are gone from the run, and all are kept as a version.

    Args:
        run: The folder of the run, which is locked (`Place.in_use`).
        command: The command that changes it.
        step: The training step of the run.
        what: A sentence on the change.
    """
    with replacing_dir(run / BEFORE / NEXT) as folder:
        (folder / OLD).mkdir()
        copy_all(run, folder / OLD)
        copy_unchanged(run, folder / OLD, WITNESS)
        about = {"command": command, "step": step, "what": what}
        about |= {"format_version": FORMAT_VERSION, "seconds": round(time.time())}
        write_json(folder / OLD / ABOUT, about)
        (folder / NEW).mkdir()
        yield folder / NEW
    _decide(run, f"{BEFORE}/{NEXT}/{NEW}")


def undo(run: Path, version: Version) -> None:
    """Let a run be what it was before its last change, byte for byte.

    Args:
        run: The folder of the run, which is locked (`Place.in_use`).
        version: The last of `versions(run)`.
    """
    _decide(run, str(version.folder.relative_to(run)))


def items(folder: Path) -> list[str]:
    """List the paths in a folder that belong to a version, relative to it."""
    found = [*folder.iterdir(), *(folder / "state").glob("*")]
    names = sorted(str(path.relative_to(folder)) for path in found)
    return [name for name in names if ITEMS.fullmatch(name)]


def copy_unchanged(run: Path, folder: Path, name: str) -> None:
    """Put a file of the run into the folder of `changing` as it is, if it is there.

    It is no link, as metrics are appended to.
    """
    if (run / name).is_file():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, folder / name)


def is_pending(run: Path) -> bool:
    """Tell whether a change is decided that a killed process did not complete."""
    return (run / DECIDED).is_file()


def finish(run: Path) -> None:
    """Complete a change that is decided; the run must be locked.

    Raises:
        RunError: If the file that says so cannot be read.
    """
    if not is_pending(run):
        return
    decided = json_files.read(run / DECIDED, RunError, ADVICE, FORMAT_VERSION)
    name = str(decided.get("source"))
    if not SOURCE.fullmatch(name):
        raise RunError(f"{run / DECIDED} is no change of this run: {ADVICE}")
    source = run / name
    if source.is_dir():  # else it was complete but for the file that says so
        if source.name == NEW:
            _keep_old(run)
        _apply(source, run)
        done = source.parent if source.name == NEW else source
        gone = done.with_name(f".{done.name}-{os.urandom(8).hex()}.tmp")
        os.rename(done, gone)  # half removed it must not look like a whole one
    (run / DECIDED).unlink()
    shutil.rmtree(run / BEFORE / NEXT, ignore_errors=True)  # of one never decided
    sweep(run)
    with contextlib.suppress(OSError):  # there may be earlier versions
        (run / BEFORE).rmdir()


def _decide(run: Path, source: str) -> None:
    write_json(run / DECIDED, {"format_version": FORMAT_VERSION, "source": source})
    finish(run)


def _keep_old(run: Path) -> None:
    """Let the files from before a change be the newest version."""
    old = run / BEFORE / NEXT / OLD
    if old.is_dir():
        command = _version(old).command
        number = len(versions(run)) + 1
        os.rename(old, run / BEFORE / f"{number:04d}-{command}")


def _apply(source: Path, run: Path) -> None:
    """Give the run the files of a version, and no others."""
    names = items(source)
    for name in names:
        if (source / name).is_dir():
            with replacing_dir(run / name) as temporary:
                _copy_folder(source / name, temporary)
        else:
            with replacing(run / name) as temporary:
                shutil.copyfile(source / name, temporary)
    for name in set(items(run)) - set(names):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_all(run: Path, folder: Path) -> None:
    """Put all files that a version has into a folder, as they are in the run."""
    for name in items(run):
        if (run / name).is_dir():
            _copy_folder(run / name, folder / name)
        else:
            copy_unchanged(run, folder, name)


def _copy_folder(source: Path, into: Path) -> None:
    shutil.copytree(source, into, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, into: str) -> None:
    """Link a file under another name where the disk can, else copy it.

    Files in a run's folders are replaced and never written into, so a link is as good
    as a copy, and takes no room.
    """
    try:
        os.link(source, into)
    except OSError:
        shutil.copyfile(source, into)
