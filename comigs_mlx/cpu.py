"""What MLX needs on a Linux CPU before it is imported; nothing elsewhere.

MLX's Linux wheel is linked with the reference BLAS (a few GFLOP/s). Symbols of a
library that is already in the global scope win, so loading OpenBLAS first replaces
it (measured here: 2-5 against 175 GFLOP/s on two cores). And `mx.compile` calls
`g++` at run time.

Imports no MLX. `prepare` runs once, when the package is imported.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import warnings
from pathlib import Path

FORTRAN = b"libgfortran.so.5"
"""The Fortran run time that the OpenBLAS wheel asks the loader for."""


WIDTH = "MLX_BFS_MAX_WIDTH"
"""How many branches of a graph MLX takes in turn; beyond that, one after the other."""


def blas_threads(count: int) -> int | None:
    """Let each call of the fast BLAS use `count` threads.

    Returns:
        How many it used before; None where the fast BLAS is not loaded.
    """
    loaded = ctypes.CDLL(None)
    if not hasattr(loaded, "openblas_set_num_threads"):
        return None
    before: int = loaded.openblas_get_num_threads()
    loaded.openblas_set_num_threads(count)
    return before


def prepare() -> None:
    """Load the fast BLAS and check for a compiler, on Linux only.

    Also asks MLX to take more branches in turn than its 20, so that the parts of a
    batch that are computed side by side (`training.lanes`) get their turns; with 200,
    gradient checkpointing would save nothing.

    Warns in one line for each of the two that is missing; never raises.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault(WIDTH, "60")
    if "mlx.core" in sys.modules:
        _warn(
            "mlx was imported before comigs_mlx, so it keeps its slow reference BLAS: "
            "import comigs_mlx first"
        )
    elif (problem := load_openblas()) is not None:
        _warn(
            f"fast BLAS not loaded ({problem}); MLX will be about 30 times slower: "
            "pip install cmeel-openblas"
        )
    if shutil.which("g++") is None and "MLX_DISABLE_COMPILE" not in os.environ:
        os.environ["MLX_DISABLE_COMPILE"] = "1"
        _warn(
            "g++ not found, so compiled steps are off and training is slower: "
            "apt install g++ (or your system's compiler package)"
        )


def _warn(text: str) -> None:
    """Warn in one line; by default Python adds the line of code that warns."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        warnings.warn(text, stacklevel=3)
    finally:
        warnings.formatwarning = usual


def load_openblas() -> str | None:
    """Load OpenBLAS into the global symbol scope.

    Returns:
        None on success, else what went wrong, in a few words.
    """
    spec = importlib.util.find_spec("cmeel")
    if spec is None or spec.origin is None:
        return "the wheel cmeel-openblas is not installed"
    site = Path(spec.origin).parent.parent
    library = site / "cmeel.prefix" / "lib" / "libopenblas.so.0"
    try:
        _load_global(library)
    except OSError as error:
        if FORTRAN.decode() not in str(error):
            return str(error)
        return _load_with_bundled_fortran(library, site / "mlx_cpu.libs")
    return None


def _load_with_bundled_fortran(library: Path, bundled: Path) -> str | None:
    """Load OpenBLAS on a system without libgfortran, with the copy MLX's wheel brings.

    That copy has a hash in its name, which the loader does not accept for the name
    OpenBLAS asks for; a copy of it under the plain name (same length, zero-padded) is
    accepted.
    """
    fortran = next(bundled.glob("libgfortran-*.so.5*"), None)
    if fortran is None:
        return "libgfortran.so.5 is missing: apt install libgfortran5"
    try:
        for quadmath in bundled.glob("libquadmath-*.so*"):
            _load_global(quadmath)
        _load_global(_renamed_copy(fortran))
        _load_global(library)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        return str(error)
    return None


def _renamed_copy(fortran: Path) -> Path:
    """A copy of `fortran` in the user's cache whose library name is the plain one."""
    from comigs_mlx.files import cache_dir, write_bytes

    copy = cache_dir() / fortran.name / FORTRAN.decode()
    if not copy.exists():
        name = fortran.name.encode() + b"\0"
        plain = FORTRAN.ljust(len(name), b"\0")
        write_bytes(copy, fortran.read_bytes().replace(name, plain))
    return copy


def _load_global(library: Path) -> None:
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
