"""What is carried between participant and server: a few facts, and whole files.

    4 bytes     the length of the header, big-endian
    header      JSON: {"format_version": 1, "about": {...}, "files": [[path, size]...]}
    contents    of the files, in the header's order

Bytes of strangers are read with this, so that every length is checked before it is
used, and nothing but JSON and plain bytes is in it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.paths import check_path
from comigs_mlx.federation.formats.strict_json import canonical, parse

FORMAT_VERSION = 1
HEADER_BYTES = 16 * 2**20
"""The most bytes of a header, which lists files."""

PACKET_BYTES = 2**30
"""The most bytes of a packet, where nothing tighter is known."""

SERVER_BYTES = 2**34
"""The most bytes of a packet between two processes of the server."""

BLOCK = 2**20


@dataclass(frozen=True)
class Packet:
    """One message.

    Attributes:
        about: The facts; "kind" says what it is.
        files: Maps a path to its content.
    """

    about: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the packet is; empty where it does not say so."""
        return str(self.about.get("kind", ""))


def pack(packet: Packet) -> bytes:
    """Write a packet; equal packets give equal bytes."""
    sizes = [[path, len(content)] for path, content in packet.files.items()]
    header = canonical(
        {
            "format_version": FORMAT_VERSION,
            "about": dict(packet.about),
            "files": sizes,
        }
    )
    return b"".join([struct.pack(">I", len(header)), header, *packet.files.values()])


def unpack(content: bytes) -> Packet:
    """Read a packet.

    Raises:
        FederationError: If the bytes are none, in a few words.
    """
    length = struct.unpack(">I", content[:4])[0] if len(content) >= 4 else 0
    if not 0 < length <= min(HEADER_BYTES, len(content) - 4):
        raise FederationError("these bytes are no packet of comigs_mlx")
    header = parse(content[4 : 4 + length], HEADER_BYTES)
    about, sizes = _checked(header)
    if 4 + length + sum(sizes.values()) != len(content):
        raise FederationError("a packet whose files are not as long as it says")
    return Packet(about, dict(_contents(content, 4 + length, sizes)))


def _checked(header: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the facts and the sizes of a header that has the right form."""
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise FederationError(
            f"a packet of format {version!r}, this version reads {FORMAT_VERSION}: "
            "update comigs_mlx on both sides"
        )
    about, listed = header.get("about"), header.get("files")
    if not isinstance(about, dict) or not isinstance(listed, list):
        raise FederationError("a packet without facts or without a list of files")
    sizes: dict[str, int] = {}
    for entry in listed:
        if not (isinstance(entry, list) and [type(e) for e in entry] == [str, int]):
            raise FederationError("a packet whose list of files is none")
        path, size = entry
        check_path(path)
        if size < 0 or path in sizes:
            raise FederationError(f"a packet with a wrong entry for {path!a}")
        sizes[path] = size
    return about, sizes


def _contents(
    content: bytes, start: int, sizes: Mapping[str, int]
) -> Iterator[tuple[str, bytes]]:
    for path, size in sizes.items():
        yield path, content[start : start + size]
        start += size


def send(connection: socket.socket, content: bytes) -> None:
    """Send bytes over a socket, after their length."""
    connection.sendall(struct.pack(">Q", len(content)))
    connection.sendall(content)


def receive(connection: socket.socket, most: int = PACKET_BYTES) -> bytes:
    """Receive what `send` sent.

    Args:
        connection: The socket; its timeout bounds every wait.
        most: The most bytes that are accepted; of more, none is read.

    Raises:
        FederationError: If there are more, or the other side has gone.
    """
    (length,) = struct.unpack(">Q", _exactly(connection, 8))
    if length > most:
        raise FederationError(f"a packet of {length} bytes, at most {most}")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        block = connection.recv(min(BLOCK, length - len(received)))
        if not block:
            raise FederationError("the other side of a socket has gone")
        received += block
    return bytes(received)
