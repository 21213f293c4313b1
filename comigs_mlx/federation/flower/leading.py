"""The server's process: leads the rounds, through a ServerApp that carries messages."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Say
from comigs_mlx.federation.flower import local
from comigs_mlx.federation.flower.node_folder import NodeFolder, account_of
from comigs_mlx.federation.flower.packet import (
    SERVER_BYTES,
    Packet,
    pack,
    receive,
    send,
    unpack,
)
from comigs_mlx.federation.flower.secure_server import SecureServer
from comigs_mlx.federation.flower.server import Answer, Limits, Server

START_SECONDS = 300.0
"""How long the ServerApp may take to connect to this process."""

CARRY_SECONDS = 600.0
"""How long the ServerApp may take for one thing, such as to send a large file."""


@contextlib.contextmanager
def connected(
    folder: Path, start: Callable[[], None], mode: str
) -> Iterator[socket.socket]:
    """Start the ServerApp, and give the socket to it for the time of a block.

    Args:
        folder: The private folder in which this process listens.
        start: Starts the ServerApp.
        mode: What it is to do.

    Raises:
        FederationError: If it does not connect.
    """
    with local.listener(folder) as listening:
        start()
        listening.settimeout(START_SECONDS)
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            raise FederationError(
                f"the ServerApp did not start within {START_SECONDS:.0f} s: "
                "see --log FILE"
            ) from None
    with connection:
        connection.settimeout(CARRY_SECONDS)
        send(connection, pack(Packet({"kind": mode})))
        try:
            yield connection
        finally:
            with contextlib.suppress(OSError):
                send(connection, pack(Packet({"kind": "end"})))


class CarriedGrid:
    """The nodes behind a ServerApp (see `server.Grid`).

    Args:
        connection: The socket to the ServerApp.
        keys: Whether the SuperLink admits registered keys alone. A SuperNode without
            one makes up a key at each start, which binds nothing.
    """

    def __init__(self, connection: socket.socket, keys: bool):
        self._connection, self._keys = connection, keys

    def nodes(self) -> Mapping[int, str | None]:
        """Return the nodes that are connected, each with its account, if it has one."""
        told = self._do(Packet({"kind": "nodes"})).about["nodes"]
        return {
            int(node): account_of(bytes.fromhex(key)) if self._keys else None
            for node, key in told
        }

    def ask(self, node: int, content: bytes, seconds: float) -> None:
        """Send a message to a node, whose answer has so many seconds."""
        about = {"kind": "ask", "node": str(node), "seconds": seconds}
        self._do(Packet(about, {"message": content}))

    def answers(self) -> list[Answer]:
        """Return the answers that have come since the last call."""
        told = self._do(Packet({"kind": "answers"}))
        return [
            Answer(int(node), told.files.get(str(i)), error)
            for i, (node, error) in enumerate(told.about["answers"])
        ]

    def _do(self, packet: Packet) -> Packet:
        with _there():
            send(self._connection, pack(packet))
            return unpack(receive(self._connection, SERVER_BYTES))


@contextlib.contextmanager
def _there() -> Iterator[None]:
    """Say what to do where the ServerApp ends in the midst of a block."""
    try:
        yield
    except (OSError, FederationError) as error:
        raise FederationError(
            f"the ServerApp has gone ({error}): see --log FILE, and start again"
        ) from error


def lead(
    connection: socket.socket,
    exchange: NodeFolder,
    rounds: int,
    limits: Limits,
    keys: bool,
    say: Say,
) -> None:
    """Lead so many rounds in the plain mode (see `server.Server`)."""
    Server(exchange, CarriedGrid(connection, keys), say, limits).run(rounds)


def lead_securely(
    connection: socket.socket,
    exchange: NodeFolder,
    rounds: int,
    limits: Limits,
    widest: float,
    say: Say,
) -> None:
    """Lead so many rounds in the secure mode (see `secure_server.SecureServer`)."""
    server = SecureServer(exchange, rounds, say, limits, widest)
    # The ServerApp asks; between two of its questions, a whole stage may pass.
    connection.settimeout(4 * limits.answer + CARRY_SECONDS)
    while True:
        with _there():
            asked = unpack(receive(connection, SERVER_BYTES))
        told = server.answer(asked)
        send(connection, pack(told))
        if told.kind == "over":
            break
    connection.settimeout(CARRY_SECONDS)
    Server(exchange, CarriedGrid(connection, False), say, limits).farewell(
        server.over()
    )
