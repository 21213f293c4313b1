"""Starts the child that parses documents, asks it, watches it, and ends it."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.data.extras import NeedsExtra
from comigs_mlx.data.pieces import Cut, Document, Piece, Skipped
from comigs_mlx.errors import DataError

SIZE = 200_000_000
"""The most bytes of a document."""

SECONDS = 120.0
"""The longest time that a file may take, in seconds."""

RESIDENT = 1_500_000_000
"""The most bytes of memory that the child may use."""

HEALTHY = 400_000_000
"""The bytes of memory above which the child is not used for another file."""

TICK = 0.2
"""The seconds between two looks at the child's memory."""

START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import documents; del sys.path[0]; "
    "from documents.worker import main; main()"
)
"""The child's program; it is given the folder that holds the package `documents`."""

KEPT = ("PATH", "PYTHONPATH", "PYTHONUSERBASE", "HOME", "LANG", "LC_ALL", "TZ")
"""The environment variables that the child sees; tokens and passwords are not among
them.
"""

NEEDED = {
    "pdf": ("pypdfium2",),
    "docx": ("mammoth", "selectolax"),
    "epub": ("selectolax",),
    "hypertext": ("selectolax",),
}
"""The packages that the parser of each kind imports."""


class Child:
    """A child process that is started when it is needed, and again after a failure."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, kind: str, path: Path) -> list[tuple[str, str, int]]:
        """Let the child parse a file.

        Raises:
            DataError: If the file is refused, or takes more than it may.
        """
        with self._lock:
            process = self._running()
            request = json.dumps({"kind": kind, "path": str(path.absolute())})
            try:
                answer = _asked(process, request, path)
            except BaseException:
                self._end()
                raise
            if _resident(process.pid) > HEALTHY:
                self._end()
        if "error" in answer:
            raise DataError(f"{path}: {answer['error']}")
        return [(what, text, count) for what, text, count in answer["pieces"]]

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(Path(__file__).parents[1])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT if name in os.environ},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


CHILD = Child()
"""The child of this process."""

atexit.register(CHILD.close)


def parsed(kind: str, what: str, path: Path) -> Iterator[Piece]:
    """Yield what a document holds.

    Args:
        kind: The module of this folder that parses it.
        what: The name of such files in the plural.
        path: The path of the document.

    Raises:
        DataError: If it cannot be read, is refused, or a package is missing.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if size > SIZE:
        raise DataError(f"{path}: {size:,} bytes: the limit is {SIZE:,}")
    if any(importlib.util.find_spec(name) is None for name in NEEDED[kind]):
        raise NeedsExtra(path, what, "documents")
    for piece, text, count in CHILD.ask(kind, path):
        if piece == "document":
            yield Document(text, str(path))
        elif piece == "cut":
            yield Cut(text, count, str(path))
        else:
            yield Skipped(text, str(path))


def _asked(
    process: subprocess.Popen[bytes], request: str, path: Path
) -> dict[str, Any]:
    """Send a request and return the answer.

    Raises:
        DataError: If the child ends, or must be ended.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    deadline, answer = time.monotonic() + SECONDS, bytearray()
    try:
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
    except OSError:
        raise _ended(process, path) from None
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], TICK)
        if ready:
            part = os.read(process.stdout.fileno(), 1 << 20)
            if not part:
                raise _ended(process, path)
            answer += part
        elif _resident(process.pid) > RESIDENT:
            raise DataError(f"{path}: given up: it takes more memory than a file may")
        if time.monotonic() > deadline:
            raise DataError(f"{path}: given up after {SECONDS:.0f} seconds")
    content: dict[str, Any] = json.loads(answer)
    return content


def _ended(process: subprocess.Popen[bytes], path: Path) -> DataError:
    """Say why the child ended while it parsed a file."""
    status = process.wait()
    if -status in (signal.SIGXCPU, signal.SIGKILL):
        return DataError(f"{path}: given up: it takes more than a file may")
    return DataError(f"{path}: it is damaged: its parser ended (status {status})")


def _resident(process: int) -> int:
    """Return the bytes of memory that a process uses; 0 where nobody tells."""
    try:
        if sys.platform == "darwin":
            command = ["ps", "-o", "rss=", "-p", str(process)]
            return 1024 * int(subprocess.check_output(command))
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return 0
