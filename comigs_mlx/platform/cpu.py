"""Prepares what MLX needs on a Linux CPU before it is imported; nothing elsewhere.

MLX needs a fast BLAS in place of its reference BLAS (see `blas`), and a compiler:
`mx.compile` calls `g++` at run time.

This module imports no MLX. `prepare` runs once, when the package is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import warnings

from comigs_mlx.platform import blas, switch

WIDTH = "MLX_BFS_MAX_WIDTH"
"""The branches of a graph that MLX takes in turn; beyond that, one after the other."""

WIDE, NARROW = "1000", "60"
"""The width that is set, and the one that gradient checkpointing needs."""


def blas_threads(count: int) -> int | None:
    """Let each call of the fast BLAS use `count` threads.

    Returns:
        The number of threads before; None where the fast BLAS is not loaded.
    """
    loaded = ctypes.CDLL(None)
    if not hasattr(loaded, "openblas_set_num_threads"):
        return None
    before: int = loaded.openblas_get_num_threads()
    loaded.openblas_set_num_threads(count)
    return before


def crash(status: int | None) -> str | None:
    """Tell which signal ended a child process, if it was no error of the user's.

    Args:
        status: The exit status as `subprocess` and `multiprocessing` give it: negative
            where a signal ended it, None where it is not known.

    Returns:
        A few words that follow "it ended: ", or None.
    """
    if status is None or status >= 0:
        return None
    if -status == signal.SIGILL:
        return (
            "a library used an instruction that this processor does not have (SIGILL); "
            "please report it with what `python -m pip list` prints"
        )
    if -status == signal.SIGKILL:
        return "the system ended it, maybe for want of memory (SIGKILL)"
    with contextlib.suppress(ValueError):
        return f"a signal ended it ({signal.Signals(-status).name})"
    return f"a signal ended it ({-status})"


def prepare() -> None:
    """Load the fast BLAS and check for a compiler, on Linux only.

    It also asks MLX to take more branches in turn than its 20, so that the parts of a
    batch that are computed side by side (`platform.cpu_streams`) get their turns: MLX
    hands out a few operations at a time, and those of one part could all come first.

    It warns in one line for each of the two that is missing, and never raises.
    """
    if not switch.linux():
        return
    os.environ.setdefault(WIDTH, WIDE)
    if "mlx.core" in sys.modules:
        _warn(
            "mlx was imported before comigs_mlx, so it keeps its slow reference BLAS: "
            "import comigs_mlx first"
        )
    else:
        _load_blas()
    if shutil.which("g++") is None and "MLX_DISABLE_COMPILE" not in os.environ:
        os.environ["MLX_DISABLE_COMPILE"] = "1"
        _warn(
            "g++ not found, so compiled steps are off and training is slower: "
            "apt install g++ (or your system's compiler package)"
        )


def narrow_graphs() -> None:
    """Let gradient checkpointing save memory, at the price of the wide graphs' speed.

    With those, blocks would be recomputed long before their gradients are made. MLX
    looks at it once, so this must be called before anything is computed; what the user
    has set stays.
    """
    if os.environ.get(WIDTH) == WIDE:
        os.environ[WIDTH] = NARROW


def _load_blas() -> None:
    try:
        if (remark := blas.load()) is not None:
            _warn(remark)
    except blas.Unusable as problem:
        _warn(f"no fast BLAS, so MLX is about 30 times slower: {problem}")


def _warn(text: str) -> None:
    """Warn in one line; by default Python adds the line of code that warns."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        warnings.warn(text, stacklevel=4)
    finally:
        warnings.formatwarning = usual
