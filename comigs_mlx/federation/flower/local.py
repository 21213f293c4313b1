"""Sockets between processes of one user on one machine, in a folder of theirs alone."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import packet

NAME = "comigs.sock"
LOOK = 0.5
"""The seconds between two looks at whether to stop."""

QUESTION_SECONDS = 60.0
"""The seconds that the other side has to say what it wants, once it is connected."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, for the time of a block.

    Its path is short, as a socket's path has at most 104 bytes on macOS.
    """
    folder = Path(tempfile.mkdtemp(prefix="comigs-"))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listener(folder: Path) -> socket.socket:
    """Listen on a socket in `folder`."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(folder / NAME))
    listening.listen()
    listening.settimeout(LOOK)
    return listening


def connect(path: str | Path, seconds: float | None = None) -> socket.socket:
    """Connect to the socket at `path`; `seconds` bound each wait, None bounds none.

    Raises:
        FederationError: If nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise FederationError(f"nobody listens at {path}: {error.strerror}") from error
    return connection


def ask(path: str | Path, question: bytes, seconds: float, most: int) -> bytes:
    """Send one question to the socket at `path`, and receive its answer.

    Raises:
        FederationError: If nobody listens there, or no answer comes within `seconds`.
    """
    with connect(path, seconds) as connection:
        try:
            packet.send(connection, question)
            return packet.receive(connection, most)
        except OSError as error:
            raise FederationError(f"no answer at {path}: {error}") from error


class Answering(threading.Thread):
    """Answers questions at a socket, one after the other, until it is stopped.

    Args:
        folder: The folder that the socket is in.
        reply: Makes the answer to a question.
        most: The most bytes that a question may have.
    """

    def __init__(
        self,
        folder: Path,
        reply: Callable[[bytes], bytes],
        most: int = packet.PACKET_BYTES,
    ):
        super().__init__(daemon=True, name="answering")
        self._listener, self._reply, self._most = listener(folder), reply, most
        self._stopped, self._idle = threading.Event(), threading.Event()
        self._idle.set()

    def run(self) -> None:
        """Answer until `stop`; a connection that breaks is the other side's affair."""
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._idle.clear()
            with connection, contextlib.suppress(OSError, FederationError):
                connection.settimeout(QUESTION_SECONDS)
                question = packet.receive(connection, self._most)
                packet.send(connection, self._reply(question))
            self._idle.set()
        self._listener.close()

    def stop(self, seconds: float) -> None:
        """End, once the answer that is being made has been sent, or after `seconds`."""
        self._idle.wait(seconds)
        self._stopped.set()
        self.join(seconds)
