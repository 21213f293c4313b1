"""How much memory MLX may use while training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mlx.core as mx

GB = 10**9

CACHE_SHARE = 0.25
"""Of the memory MLX may use: what its cache of freed buffers may hold on Metal.

A step asks for the same sizes again, and the cache answers; it needs no more than one
step's intermediates. Metal's own limit is 1.5 times the recommended working set, so
that with several lengths the buffers of all of them stay.
"""

CPU_CACHE = 32 * 2**20
"""Bytes of freed buffers kept on a CPU, as MLX has it: more made no step faster."""


@contextlib.contextmanager
def limits(gb: float | None) -> Iterator[None]:
    """Bound MLX's memory, its buffer cache and, on Metal, what stays resident.

    The limits that were there before are put back at the end.

    Args:
        gb: Limit in GB (10^9 bytes), a guideline to MLX; None keeps MLX's own.
    """
    wanted = None if gb is None else int(gb * GB)
    with contextlib.ExitStack() as stack:
        if wanted is not None:
            stack.callback(mx.set_memory_limit, mx.set_memory_limit(wanted))
        metal = mx.metal.is_available()
        working_set = _working_set(wanted) if metal else 0
        cache = int(CACHE_SHARE * working_set) if metal else CPU_CACHE
        stack.callback(mx.set_cache_limit, mx.set_cache_limit(cache))
        if metal:
            stack.callback(mx.set_wired_limit, mx.set_wired_limit(working_set))
        yield


def _working_set(wanted: int | None) -> int:
    """Bytes that can stay resident: never more than the system recommends."""
    most = int(mx.device_info()["max_recommended_working_set_size"])
    return most if wanted is None else min(wanted, most)


def too_low(gb: float | None) -> str | None:
    """A warning where a limit is below what is in use now, the base model."""
    used = mx.get_active_memory() / GB
    if gb is None or used <= gb:
        return None
    return (
        f"--memory-limit {gb} GB is less than the base model's {used:.2f} GB: training "
        "will wait for memory all the time; raise it, or choose a smaller or quantised "
        "--model"
    )
