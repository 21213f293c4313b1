"""The one switch: which part of this folder is needed where this process computes.

Apple silicon is the first platform and needs none of it. What exists for Linux, for a
CPU or for x86 asks here, and nothing else in the package looks at the system, the
processor or the device in order to choose how to compute.

Imports MLX only when it is asked for the device: `cpu.prepare` comes before that.
"""

from __future__ import annotations

import platform
import sys


def linux() -> bool:
    """Whether this is Linux, where MLX's wheel needs a faster BLAS and a compiler."""
    return sys.platform.startswith("linux")


def on_cpu() -> bool:
    """Whether MLX computes on the CPU by default."""
    import mlx.core as mx

    return mx.default_device() == mx.Device(mx.cpu)


def x86_cpu() -> bool:
    """Whether arrays are computed where the functions of `x86` are the faster ones."""
    return on_cpu() and platform.machine().lower() in ("x86_64", "amd64")
