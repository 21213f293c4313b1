"""Checks this machine: Python, packages, processor, BLAS, compiler, device, memory,
disk, caches, and the Hub where it may be asked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import environment, files
from comigs_mlx.diagnosis.findings import Check, Finding
from comigs_mlx.messages import quiet
from comigs_mlx.platform import blas, switch

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "comigs-mlx"
LEAST_PYTHON = (3, 11)
GB = 10**9

HUB_SECONDS = 10.0
"""The seconds that the Hub has to answer in."""

PUBLIC_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""A model that the Hub shows to everybody."""

LITTLE_DISK = 2 * GB
"""The bytes of free disk below which it is said: a base model needs as much."""

SIDE, TRIES = 768, 3
"""The rows and columns of the matrices that are multiplied, and how often."""

SLOW = 10.0
"""The GFLOP/s that no machine with a working fast BLAS is below."""

BUNDLED = f"""
import time, mlx.core as mx
a = mx.ones(({SIDE // 2}, {SIDE // 2}))
mx.eval(a @ a)
begin = time.perf_counter()
mx.eval(a @ a)
print(2 * {SIDE // 2} ** 3 / (time.perf_counter() - begin) / 1e9)
"""
"""A program that measures MLX's own BLAS in GFLOP/s; it loads nothing of this
package."""

BUNDLED_SECONDS = 60


def checks(hub: bool) -> list[tuple[str, Check]]:
    """List the checks of this machine.

    Args:
        hub: Whether the Hugging Face Hub is asked, which opens a connection.
    """
    return [
        ("Python", python),
        ("packages", packages),
        ("processor", processor),
        ("BLAS", fast_blas),
        ("compiler", compiler),
        ("device", device),
        ("memory", memory),
        ("disk", disk),
        ("caches", caches),
        ("Hub", lambda: hub_access(hub)),
    ]


def python() -> Iterator[Finding]:
    """Check the version of Python, and that it is not emulated."""
    found, machine = platform.python_version(), platform.machine()
    values = {"version": found, "machine": machine, "executable": sys.executable}
    needed = ".".join(map(str, LEAST_PYTHON))
    if sys.version_info < LEAST_PYTHON:
        advice = f"install Python {needed} or newer: uv python install"
        yield Finding("Python", "fail", f"{found} is too old", advice, values)
    elif switch.macos() and machine == "x86_64":
        advice = "install the arm64 Python: this one cannot use Metal"
        text = f"{found} is built for Intel and may run under Rosetta"
        yield Finding("Python", "fail", text, advice, values)
    else:
        yield Finding("Python", "ok", f"{found} on {machine}", values=values)


def packages() -> Iterator[Finding]:
    """Compare the installed packages with what this one needs."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    own = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    found = {r.name: environment.version(r.name) for r in own}
    wrong = [
        f"{r.name}{r.specifier}"
        + (f" (found {found[r.name]})" if found[r.name] else "")
        for r in own
        if not found[r.name] or not r.specifier.contains(found[r.name], True)
    ]
    values = {"comigs-mlx": environment.VERSION, **found}
    main = ("mlx", "mlx-lm", "numpy")
    shown = ", ".join(f"{name} {environment.version(name)}" for name in main)
    if wrong:
        text = f"missing or of another version: {', '.join(wrong)}"
        advice = "python -m pip install --upgrade comigs-mlx"
        yield Finding("packages", "fail", text, advice, values)
    else:
        text = f"comigs-mlx {environment.VERSION}, {shown}"
        yield Finding("packages", "ok", text, values=values)
    here = {extra: not _lacking(extra, needed) for extra in _extras()}
    listed = ", ".join(f"{extra} {'yes' if on else 'no'}" for extra, on in here.items())
    yield Finding("extras", "ok", listed or "none", values=here)


def _extras() -> list[str]:
    """List the extras that users may want."""
    names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return [name for name in names if name != "dev"]


def _lacking(extra: str, needed: Iterable[Requirement]) -> list[str]:
    """List the packages of an extra that are not installed."""
    own = [r for r in needed if r.marker and not r.marker.evaluate({"extra": ""})]
    of_extra = [r for r in own if r.marker and r.marker.evaluate({"extra": extra})]
    return [r.name for r in of_extra if not environment.version(r.name)]


def processor() -> Iterator[Finding]:
    """Name the processor, and the cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if switch.linux() else os.cpu_count()
    values = {"chip": environment.chip(), "cores": os.cpu_count(), "usable": usable}
    text = f"{values['chip'] or platform.machine()}, {usable} cores"
    yield Finding("processor", "ok", text, values=values)


def fast_blas() -> Iterator[Finding]:
    """Measure products of matrices on the CPU, and compare them with MLX's own BLAS."""
    speed = _gflops()
    values: dict[str, Any] = {"gflops": round(speed, 1)}
    if not switch.linux():
        text = f"Accelerate, {speed:.0f} GFLOP/s on the CPU"
        yield Finding("BLAS", "ok", text, values=values)
        return
    library = _blas_library()
    values |= {"library": library, "bundled_gflops": _bundled_gflops()}
    text = f"{library or 'the reference BLAS of MLX'}, {speed:.0f} GFLOP/s"
    if values["bundled_gflops"] and library:
        text += f", {speed / values['bundled_gflops']:.0f} times MLX's own"
    if library is None:
        yield Finding("BLAS", "warn", text, _why_no_blas(), values)
    elif speed < SLOW:
        advice = "look for other work on this machine (top)"
        yield Finding("BLAS", "warn", f"{text}: that is slow", advice, values)
    else:
        yield Finding("BLAS", "ok", text, values=values)


def _gflops() -> float:
    """Return the billions of operations a second of a float32 product on the CPU.

    The quickest of some tries counts: other work on the machine only makes it slower.
    """
    import mlx.core as mx

    seconds = []
    with mx.stream(mx.cpu):
        matrix = mx.ones((SIDE, SIDE))
        mx.eval(matrix @ matrix)  # the first one also starts threads
        for _ in range(TRIES):
            begin = time.perf_counter()
            mx.eval(matrix @ matrix)
            seconds.append(time.perf_counter() - begin)
    return 2 * SIDE**3 / min(seconds) / 1e9


def _blas_library() -> str | None:
    """Return the name that the loaded OpenBLAS gives itself, with its kernels."""
    loaded = ctypes.CDLL(None)
    names = []
    for function in ("openblas_get_config", "openblas_get_corename"):
        if not hasattr(loaded, function):
            return None
        asked = getattr(loaded, function)
        asked.restype = ctypes.c_char_p
        names.append((asked() or b"").decode(errors="replace"))
    return f"{' '.join(names[0].split()[:2])} ({names[1]})"


def _bundled_gflops() -> float | None:
    """Measure MLX's own BLAS in a child process that loads no other."""
    command = [sys.executable, "-P", "-c", BUNDLED]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUNDLED_SECONDS
        )
        return round(float(done.stdout), 1)
    return None


def _why_no_blas() -> str:
    try:
        blas.load()
    except blas.Unusable as problem:
        return str(problem)
    return "import comigs_mlx before mlx"


def compiler() -> Iterator[Finding]:
    """Compile a function, as a training step is compiled."""
    import mlx.core as mx

    if switch.linux() and shutil.which("g++") is None:
        text = "there is no g++, so compiled steps are off and training is slower"
        advice = "apt install g++ (or your system's compiler package)"
        yield Finding("compiler", "warn", text, advice, {"g++": None})
        return
    values = {"g++": shutil.which("g++")} if switch.linux() else {}
    if os.environ.get("MLX_DISABLE_COMPILE"):
        text = "MLX_DISABLE_COMPILE is set, so compiled steps are off"
        yield Finding("compiler", "warn", text, "unset MLX_DISABLE_COMPILE", values)
        return
    compiled = mx.compile(lambda x: mx.exp(x) * 2 + 1)
    right = bool(mx.allclose(compiled(mx.zeros(8)), mx.full(8, 3.0)).item())
    state, text = (
        ("ok", "mx.compile works") if right else ("fail", "mx.compile is wrong")
    )
    advice = "" if right else "python -m pip install --upgrade mlx"
    yield Finding("compiler", "ok" if state == "ok" else "fail", text, advice, values)


def device() -> Iterator[Finding]:
    """Name the device that MLX computes on."""
    import mlx.core as mx

    values: dict[str, Any] = {"type": mx.default_device().type.name}
    if not mx.metal.is_available():
        if switch.macos():
            text, advice = "MLX cannot use Metal", "python -m pip install --upgrade mlx"
            yield Finding("device", "fail", text, advice, values)
            return
        yield Finding(
            "device", "ok", "the CPU: Metal is on Apple silicon", values=values
        )
        return
    values |= dict(mx.device_info())
    name = values.get("device_name") or "Metal"
    yield Finding("device", "ok", f"{name} through Metal", values=values)


def memory() -> Iterator[Finding]:
    """Tell how much memory there is, is free, and may be used by MLX."""
    import mlx.core as mx

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = dict(mx.device_info())
    most = int(info.get("max_recommended_working_set_size", 0)) or mx.get_memory_limit()
    values = {"total": total, "mlx": most, "available": _available()}
    parts = [f"{total / GB:.1f} GB"]
    if values["available"] is not None:
        parts.append(f"{values['available'] / GB:.1f} GB available")
    parts.append(f"MLX may use {most / GB:.1f} GB")
    yield Finding("memory", "ok", ", ".join(parts), values=values)


def _available() -> int | None:
    """Return the bytes that are free or can be freed, where the system tells."""
    with contextlib.suppress(OSError, ValueError):
        for text in Path("/proc/meminfo").read_text().splitlines():
            if text.startswith("MemAvailable:"):
                return int(text.split()[1]) * 1024
    return None


def disk() -> Iterator[Finding]:
    """Tell how much room there is for runs and for the caches."""
    for name, folder in (("runs", Path.cwd()), ("caches", files.cache_dir())):
        here = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(here).free
        values = {"folder": str(folder), "free": free}
        text = f"{free / GB:.1f} GB free for {name} ({folder})"
        writable = os.access(here, os.W_OK)
        if not writable:
            advice = "choose another folder: --run, XDG_CACHE_HOME"
            yield Finding("disk", "warn", f"{here} cannot be written", advice, values)
        elif free < LITTLE_DISK:
            yield Finding("disk", "warn", text, "make room on the disk", values)
        else:
            yield Finding("disk", "ok", text, values=values)


def caches() -> Iterator[Finding]:
    """Tell how large the folders are that fill by themselves."""
    from huggingface_hub import constants

    own = files.cache_dir()
    folders = {
        "tokens": own / "tokens",
        "demo model": own / "demo-model",
        "Hugging Face": Path(constants.HF_HUB_CACHE),
    }
    sizes = {name: _size(folder) for name, folder in folders.items()}
    text = ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items())
    where = {name: str(folder) for name, folder in folders.items()}
    yield Finding("caches", "ok", text, values={"bytes": sizes, "folders": where})


def _size(folder: Path) -> int:
    """Count the bytes of all files in a folder; links count as links."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _bytes(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 10**6:.0f} MB"


def hub_access(ask: bool) -> Iterable[Finding]:
    """Tell whether there is a token and, if it may be asked, what the Hub answers.

    Args:
        ask: Whether a connection may be opened.
    """
    import huggingface_hub

    token = huggingface_hub.get_token() is not None
    values: dict[str, Any] = {"token": token}
    known = "there is a token" if token else "there is no token"
    if not ask:
        text = f"{known}; not asked (--hub asks)"
        return [Finding("Hub", "ok", text, values=values)]
    from huggingface_hub import constants

    from comigs_mlx.errors import FederationError
    from comigs_mlx.federation.exchanges.hub import client

    def answer() -> str:
        api = client.library().HfApi()
        if token:
            return f"it knows you as {api.whoami()['name']}"
        api.model_info(PUBLIC_MODEL)
        return "it answers, as to a stranger"

    try:
        said = client.patiently(answer, constants.ENDPOINT, HUB_SECONDS, quiet)
    except FederationError as error:
        advice = "check the network, then log in with `hf auth login`"
        return [Finding("Hub", "warn", f"{known}; {error}", advice, values)]
    advice = (
        "" if token else "log in with `hf auth login` to share or read what is private"
    )
    return [Finding("Hub", "ok", f"{known}, and {said}", advice, values)]
