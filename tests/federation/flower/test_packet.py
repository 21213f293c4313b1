"""Packets survive the way, and bytes of strangers are refused in words."""

import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import packet
from comigs_mlx.federation.flower.packet import Packet

PATHS = st.from_regex(r"[a-z][a-z0-9]{0,5}(/[a-z]{1,4})?", fullmatch=True)


@given(st.dictionaries(PATHS, st.binary(max_size=50), max_size=4))
def test_what_is_packed_is_unpacked(files):
    made = Packet({"kind": "round", "round": 3}, files)
    assert packet.unpack(packet.pack(made)) == made


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_be_refused(content):
    with pytest.raises(FederationError):
        packet.unpack(content)


def written(header, contents=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + contents


def listing(*entries, **others):
    return {"format_version": 1, "about": {}, "files": list(entries), **others}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "these bytes are no packet"),
        (struct.pack(">I", 2**31) + b"{}", "these bytes are no packet"),
        (written(b"{"), "not valid JSON"),
        (written([]), "a packet of format None"),
        (written(listing(format_version=2)), "update comigs_mlx on both sides"),
        (written(listing(about=[])), "without facts"),
        (written(listing(["a"])), "list of files is none"),
        (written(listing(["a", True]), b"x"), "list of files is none"),
        (written(listing(["a", -1])), "a wrong entry for 'a'"),
        (written(listing(["a", 0], ["a", 0])), "a wrong entry for 'a'"),
        (written(listing(["../a", 1]), b"x"), "cannot be a file of a federation"),
        (written(listing([".a", 1]), b"x"), "cannot be a file of a federation"),
        (written(listing(["a", 2]), b"x"), "not as long as it says"),
        (written(listing(["a", 1]), b"xy"), "not as long as it says"),
    ],
)
def test_what_is_wrong_is_said(content, told):
    with pytest.raises(FederationError, match=told):
        packet.unpack(content)


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(5)
        right.settimeout(5)
        yield left, right


def test_a_socket_carries_bytes_up_to_a_bound(ends):
    left, right = ends
    packet.send(left, b"abc" * 100)
    assert packet.receive(right, 300) == b"abc" * 100
    packet.send(left, b"abc" * 100)
    with pytest.raises(FederationError, match="300 bytes, at most 299"):
        packet.receive(right, 299)


def test_a_socket_that_closes_is_told(ends):
    left, right = ends
    left.sendall(struct.pack(">Q", 10) + b"abc")
    left.close()
    with pytest.raises(FederationError, match="has gone"):
        packet.receive(right)
