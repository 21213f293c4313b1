"""On a Linux CPU, the rows of a batch are computed side by side.

MLX's CPU backend runs the operations of a stream one after the other, on one thread,
and only the products of matrices use several cores. So a batch is divided among
streams, each with one BLAS thread: with more, the threads of one stream would wait for
the cores that another one computes on. The graph stays one, and so does every gradient:
the order in which the rows' losses are added is fixed by the code and not by which
stream is first. Elsewhere there is one stream, and nothing changes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import mlx.core as mx

from comigs_mlx.platform import cpu, switch

Result = TypeVar("Result")


def count(rows: int) -> int:
    """Number of streams for a batch of so many rows."""
    return min(rows, _cores()) if switch.on_cpu() else 1


def each(run: Callable[..., Result], *arrays: mx.array) -> list[Result]:
    """`run` on every stream's rows of the arrays.

    Args:
        run: Called once a stream, with as many arrays as are given.
        arrays: The arrays whose rows are divided, `[batch, ...]`.
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
    return len(os.sched_getaffinity(0)) if switch.linux() else 1


class _Streams(threading.local):
    """Streams belong to the thread that made them: every thread has its own."""

    def __init__(self) -> None:
        self.made: dict[int, mx.Stream] = {}


_streams = _Streams()


def _stream(index: int) -> mx.Stream:
    if index == 0:  # what is not divided runs here already, without a wait
        return mx.default_stream(mx.cpu)
    if index not in _streams.made:
        _streams.made[index] = mx.new_stream(mx.cpu)
    return _streams.made[index]
