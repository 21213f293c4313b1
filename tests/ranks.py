"""Processes on loopback that train together, as `mlx.launch` would start them."""

import contextlib
import json
import socket

import tests.processes as processes

SECONDS = 300
"""The longest wait for processes that end by themselves."""


def hostfile(folder, count):
    """Write a ring's hostfile of `count` free ports; its path."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
    for each in sockets:
        each.close()
    file = folder / "hosts.json"
    file.write_text(json.dumps(hosts))
    return file


@contextlib.contextmanager
def launched(folder, *programs):
    """Start ranks, each with the arguments of its program."""
    file = hostfile(folder, len(programs))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                processes.start(*argv, MLX_RANK=str(rank), MLX_HOSTFILE=str(file))
            )
            for rank, argv in enumerate(programs)
        ]


def ends(ranks):
    """Wait for the ends of processes: (code, out, err) of each."""
    said = [rank.communicate(SECONDS) for rank in ranks]
    return [(rank.returncode, *text) for rank, text in zip(ranks, said, strict=True)]


def run(folder, *programs):
    """Run ranks to their ends: (code, out, err) of each."""
    with launched(folder, *programs) as ranks:
        return ends(ranks)
