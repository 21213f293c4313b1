"""Computes the rows of a batch side by side, on a Linux CPU.

MLX's CPU backend runs the operations of a stream one after the other, on one thread,
and only the products of matrices use several cores. So a batch is divided among
streams, each with one BLAS thread: with more, the threads of one stream would wait for
the cores that another one computes on. There is still one graph, and every gradient is
the same in each run: the code fixes the order in which the rows' losses are added, not
the stream that is first. Elsewhere there is one stream, and nothing changes.
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
    """Return the number of streams for a batch of so many rows."""
    return min(rows, _fixed or _cores()) if switch.on_cpu() else 1


@contextlib.contextmanager
def fixed(streams: int) -> Iterator[None]:
    """Compute with so many streams in this block, whatever cores there are.

    Sums are added up in an order that the number of streams decides, and that of BLAS
    threads may; with both fixed, a process gives the same bits as another one with more
    cores or fewer. It holds for the whole process.
    """
    global _fixed
    before, threads = _fixed, cpu.blas_threads(1) if switch.on_cpu() else None
    _fixed = streams
    try:
        yield
    finally:
        _fixed = before
        if threads is not None:
            cpu.blas_threads(threads)


_fixed: int | None = None


def each(run: Callable[..., Result], *arrays: mx.array) -> list[Result]:
    """Call `run` on every stream's rows of the arrays.

    Args:
        run: The function that is called once a stream, with as many arrays as are
            given.
        arrays: The arrays whose rows are divided, `[batch, ...]`.
    """
    rows = arrays[0].shape[0]
    streams = count(rows)
    if streams == 1:
        return [run(*arrays)]
    results = []
    for index in range(streams):
        part = slice(index * rows // streams, (index + 1) * rows // streams)
        # An operation belongs to the stream that was the default when it was made, and
        # so does its gradient. Nothing is computed here: see `evaluating`.
        with mx.stream(_stream(index)):
            results.append(run(*(array[part] for array in arrays)))
    return results


@contextlib.contextmanager
def evaluating(rows: int) -> Iterator[None]:
    """Evaluate what `each` made in this block, with one BLAS thread for each stream."""
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
    """Count the cores that this process may use, on Linux; elsewhere 1: BLAS knows
    better.
    """
    return len(os.sched_getaffinity(0)) if switch.linux() else 1


class _Streams(threading.local):
    """The streams of one thread: MLX's streams belong to the thread that made them."""

    def __init__(self) -> None:
        self.by_index: dict[int, mx.Stream] = {}


_streams = _Streams()


def _stream(index: int) -> mx.Stream:
    # The undivided operations before and after run on the default stream. The first
    # part does too, so that it need not wait for them as another stream would.
    if index == 0:
        return mx.default_stream(mx.cpu)
    if index not in _streams.by_index:
        _streams.by_index[index] = mx.new_stream(mx.cpu)
    return _streams.by_index[index]
