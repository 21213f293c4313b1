"""Processes of one machine that sum arrays, as several Macs sum their gradients.

`python -m comigs_mlx.benchmark.peers` is one of them. It reads lines, each the number
of values to sum with the others, and answers each with one when it has the sum.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path


class Peers:
    """Processes that are connected in a ring over loopback."""

    def __init__(self, count: int, folder: Path):
        """Start them.

        Args:
            count: The number of processes, at least two.
            folder: The folder for the ring's hostfile.
        """
        file = folder / f"ring-of-{count}.json"
        file.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free(count)]))
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", __spec__.name],
                env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(file)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        weakref.finalize(self, _end, self._processes)

    def sum(self, values: int) -> None:
        """Sum arrays of so many float32 values, one of each process.

        Raises:
            RuntimeError: If a process has ended.
        """
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{values}\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("a process of the ring has ended")


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()  # it holds nothing, and may still be waiting for the others
    for process in processes:
        with contextlib.suppress(OSError):
            process.communicate()


def _free(count: int) -> list[int]:
    """Return free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    """Sum with the other processes until stdin ends."""
    import mlx.core as mx

    from comigs_mlx.training.ranks import joined

    group = joined("ring")
    for line in sys.stdin:
        mx.eval(group.reduce([mx.ones((int(line),))]))
        print(line, end="", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
