"""On a Linux CPU, the rows of a batch are computed side by side.

MLX's CPU backend runs one operation after the other and only the products of matrices
use several cores. So a batch is divided among streams, each with one BLAS
thread; the graph, and with it every gradient, stays one. Elsewhere there is one
stream, and nothing changes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import mlx.core as mx

from comigs_mlx.platform import cpu

Result = TypeVar("Result")


def count(rows: int) -> int:
    """Number of streams for a batch of so many rows."""
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    return min(rows, _cores()) if on_cpu else 1


def each(run: Callable[..., Result], *arrays: mx.array) -> list[Result]:
    """`run` on every stream's rows of the arrays.

    Args:
        run: Called once a stream, with as many arrays as are given.
        arrays: `[batch, ...]`.
    """
    rows = arrays[0].shape[0]
    streams = count(rows)
    if streams == 1:
        return [run(*arrays)]
    results = []
    for index in range(streams):
        part = slice(index * rows // streams, (index + 1) * rows // streams)
        with mx.stream(_stream(index)):
            results.append(run(*(array[part] for array in arrays)))
    return results


@contextlib.contextmanager
def evaluating(rows: int) -> Iterator[None]:
    """Around the evaluation of what `each` made: one BLAS thread for each stream."""
    if count(rows) == 1:
        yield
        return
    before = cpu.blas_threads(1)
    try:
        yield
    finally:
        if before is not None:
            cpu.blas_threads(before)


@functools.cache
def _cores() -> int:
    """Cores this process may use, on Linux; elsewhere one, as BLAS knows better."""
    return len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else 1


class _Streams(threading.local):
    """Streams belong to the thread that made them: every thread has its own."""

    def __init__(self) -> None:
        self.made: dict[int, mx.Stream] = {}


_streams = _Streams()


def _stream(index: int) -> mx.Stream:
    if index == 0:
        return mx.default_stream(mx.cpu)
    if index not in _streams.made:
        _streams.made[index] = mx.new_stream(mx.cpu)
    return _streams.made[index]
