"""Who computes what, where several processes share a folder: claims, and their pulse.

    OUT/.claims/<task>.<n>      the n-th claim to a task: who has it, and its pulse

A claim is a file that only one process can create, and the one with the highest number
counts; none is ever removed or renamed, so that no two processes can take over the same
claim. Whoever has it counts its pulse up, and whoever wants it watches: a pulse that
stands still for `PATIENCE` seconds of the watcher's own clock is that of a dead
process, whatever other machines' clocks say. On one machine a process that is gone is
seen at once. Nothing here needs locks; the file system must let one process alone
create a file (`O_EXCL`: local disks, NFS from version 3 on, SMB), and show a file's
content to whoever opens it anew.

A process that was only asleep may find its claim taken. It stops before it writes
anything more; and if it should not notice in time, what it writes is what the other one
writes, bit for bit, and every file is written whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.files import write_text

BEAT = 10.0
"""The seconds between two beats of a claim's pulse."""

PATIENCE = 60.0
"""The seconds without a beat after which a claim may be taken over."""

FOLDER = ".claims"


class Lost(Exception):
    """The error of a process whose task another one has taken over."""


@dataclass(frozen=True)
class Process:
    """A process, and where it can be looked for.

    Attributes:
        machine: A text that only processes share that can see each other's numbers.
        pid: The number of the process.
        token: A text of this process alone, whatever numbers are used again.
    """

    machine: str
    pid: int
    token: str

    @classmethod
    def this(cls) -> Process:
        """Return the process that calls this."""
        return cls(_machine(), os.getpid(), secrets.token_hex(8))


class Claims:
    """The claims of a folder, as one process sees and makes them."""

    def __init__(
        self,
        folder: Path,
        process: Process | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Remember the folder; nothing is written yet.

        Args:
            folder: The folder that all processes share.
            process: The process that claims; None is this one.
            clock: Tells the seconds that pass here.
        """
        self.folder, self._clock = folder / FOLDER, clock
        self.process = process or Process.this()
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def take(self, task: str) -> Claim | None:
        """Claim a task, unless a process that may be alive has it."""
        newest = self._newest(task)
        if newest and not self._is_over(self._file(task, newest)):
            return None
        file = self._file(task, newest + 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:  # another one was faster
            return None
        claim = Claim(self, file, self._file(task, newest + 2))
        with os.fdopen(descriptor, "w") as opened:
            opened.write(claim.text())
        return claim

    def _newest(self, task: str) -> int:
        """Return the highest number of a claim to a task; 0 if there is none."""
        pattern = re.compile(rf"{re.escape(task)}\.(\d+)")
        if not self.folder.is_dir():
            return 0
        names = (pattern.fullmatch(name) for name in os.listdir(self.folder))
        return max((int(match[1]) for match in names if match), default=0)

    def _is_over(self, file: Path) -> bool:
        """Tell whether whoever has a claim has given it up, or is dead."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return False
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(content)
            if told["over"] or self._is_gone(told):
                return True
        before, since = self._seen.get(file, (b"", 0.0))
        if content != before:
            self._seen[file] = content, self._clock()
            return False
        return self._clock() - since > PATIENCE

    def _is_gone(self, told: dict[str, Any]) -> bool:
        """Tell whether the process of a claim is known to have ended."""
        if told["machine"] != self.process.machine:
            return False
        try:
            os.kill(int(told["pid"]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def _file(self, task: str, number: int) -> Path:
        return self.folder / f"{task}.{number}"


class Claim:
    """A claim that this process has; its pulse beats in the block of a `with`."""

    def __init__(self, claims: Claims, file: Path, next_file: Path):
        self.file, self._next = file, next_file
        self._process = claims.process
        self._beats, self._over = 0, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def token(self) -> str:
        """A text of this process alone."""
        return self._process.token

    def check(self) -> None:
        """Raise `Lost` if another process has taken the task over."""
        if self.is_lost():
            raise Lost(self.file.name)

    def is_lost(self) -> bool:
        """Tell whether another process has taken the task over."""
        try:
            told = json.loads(self.file.read_bytes())
        except (OSError, ValueError):
            return True
        return self._next.exists() or told["token"] != self.token

    def text(self) -> str:
        """Return the content of the claim's file, as it is now."""
        told = {**vars(self._process), "beats": self._beats, "over": self._over}
        return json.dumps(told)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the task up: it is done, or it has failed and others may try."""
        self._end.set()
        self._thread.join()
        self._over = True
        with contextlib.suppress(OSError):
            write_text(self.file, self.text())

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            self._beats += 1
            with contextlib.suppress(OSError):  # a network disk may be gone for a while
                write_text(self.file, self.text())


def _machine() -> str:
    """Name what processes share that can see each other's numbers.

    On Linux it is the boot and the namespace of numbers, so that containers of one
    machine are told apart; on macOS the boot.
    """
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "kern.bootsessionuuid"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        return told.stdout.strip()
    return secrets.token_hex(8)  # nobody else's
