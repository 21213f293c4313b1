"""Tests side by side (pytest-xdist) take one core each, and so do their processes.

Threads of several workers that wait for each other would keep all cores busy. Tests
that run alone (real, browser) take all cores. Imports nothing heavy: conftest.py calls
`one_blas_thread` before MLX is imported.
"""

import os

WORKER = "PYTEST_XDIST_WORKER" in os.environ


def one_blas_thread():
    """Let the BLAS that is loaded after this use one thread, unless the shell says."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def one_core_each():
    """Divide no batch among streams: a tiny step is twice as fast in one.

    The tests of the streams set their number themselves.
    """
    from comigs_mlx.platform import cpu_streams

    if WORKER:
        cpu_streams._cores = lambda: 1
