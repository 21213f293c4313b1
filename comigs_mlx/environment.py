"""Where numbers were measured: machine, versions, commit; what libraries may not send.

Imports no MLX before it is asked for the device: `platform.blas` needs versions before
MLX may be loaded.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
"""Of this package; also in pyproject.toml."""

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package."""

NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables that keep the libraries from reporting that they are used."""


def send_no_telemetry() -> None:
    """Set `NO_TELEMETRY`, whatever the user's shell says.

    The libraries read it when they are imported, so this comes before.
    """
    os.environ.update(NO_TELEMETRY)


def environment() -> dict[str, Any]:
    """Machine, versions and commit; what cannot be found out is None."""
    import mlx.core as mx

    return {
        "chip": chip(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "mlx": version("mlx") or None,
        "mlx-lm": version("mlx-lm") or None,
        "comigs-mlx": VERSION,
        "commit": commit(ROOT),
        "device": mx.default_device().type.name,
    }


def version(package: str, missing: str = "") -> str:
    """The installed version of a package.

    Args:
        package: Its name on the index, such as `mlx-lm`.
        missing: What to return where it is not installed.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return missing


def chip() -> str | None:
    """The processor's name."""
    with contextlib.suppress(OSError):
        if platform.system() == "Darwin":
            query = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return _output(query)
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or None


def commit(root: Path) -> str | None:
    """The commit checked out in `root`, with `-dirty` where files differ from it."""
    if not is_checkout(root):
        return None
    changed = git(root, "status", "--porcelain").stdout.strip()
    return git(root, "rev-parse", "HEAD").stdout.strip() + "-dirty" * bool(changed)


def is_checkout(root: Path) -> bool:
    """Whether `root` is the top folder of a git checkout that has a commit.

    A package installed in some other project's checkout is not.
    """
    top = git(root, "rev-parse", "--show-toplevel", "--verify", "HEAD")
    return top.returncode == 0 and Path(top.stdout.splitlines()[0]) == root.resolve()


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in `root`, without hooks; a missing git fails like a wrong command."""
    # Inside a git hook these variables point at another checkout.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(root), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=inherited, check=False
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", "git is not installed")


def _output(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _memory_gb() -> float | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return round(total / 1e9, 1)
    return None
