"""The one switch: decides which part of this folder this process needs.

Apple silicon is the first platform and needs none of it. Code for Linux, for a CPU or
for x86 asks here, and nothing else in the package looks at the system, the processor or
the device in order to choose how to compute.

It imports MLX only when it is asked for the device, after `cpu.prepare`.
"""

from __future__ import annotations

import platform
import sys


def linux() -> bool:
    """Tell whether this is Linux, where MLX's wheel lacks a fast BLAS and a
    compiler.
    """
    return sys.platform.startswith("linux")


def macos() -> bool:
    """Tell whether this is macOS, whose commands a long run may ask (see `mac`)."""
    return sys.platform == "darwin"


def on_cpu() -> bool:
    """Tell whether MLX computes on the CPU by default."""
    import mlx.core as mx

    return mx.default_device() == mx.Device(mx.cpu)


def float32_is_faster() -> bool:
    """Tell whether only float32 products are quick: MLX gives the BLAS no others."""
    return linux() and on_cpu()


def x86_cpu() -> bool:
    """Tell whether arrays are computed where the functions of `x86` are faster."""
    return on_cpu() and platform.machine().lower() in ("x86_64", "amd64")
