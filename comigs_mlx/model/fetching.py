"""Fetches a base model in a process of its own, which can be watched and ended.

    fetching = Fetching("mlx-community/Llama-3.2-1B-Instruct-4bit", total=695_000_000)
    fetching.state.done    # bytes so far
    fetching.cancel()      # what was fetched is kept: the next try goes on from there

`python -m comigs_mlx.model.fetching ID` is that process; no weights are loaded.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.errors import ComigsError
from comigs_mlx.model.base import DEMO, fetch
from comigs_mlx.model.demo import demo_folder

UNSAID = "it ended without a reason: check the network, and try again"


@dataclass(frozen=True)
class FetchState:
    """How far a download is.

    Attributes:
        model: The id of the model.
        running: Whether it is being fetched.
        done: The bytes that are here, at most `total`.
        total: The bytes in all; 0 where that is not known.
        problem: The reason why it failed, in a sentence; None if it did not.
        cancelled: Whether it was ended by `cancel`.
    """

    model: str
    running: bool
    done: int
    total: int
    problem: str | None = None
    cancelled: bool = False


class Fetching:
    """A model on its way to this device."""

    def __init__(self, model_id: str, total: int, command: Sequence[str] | None = None):
        """Begin to fetch.

        Args:
            model_id: The id of the model, as `load_base` takes it.
            total: The bytes to fetch.
            command: The process that does it; None is the one of this module.
        """
        self.model, self._total, self._cancelled = model_id, total, False
        self._folder = place(model_id)
        # A file, as bars of the Hub's package would fill a pipe that nobody empties.
        self._errors = tempfile.TemporaryFile()
        weakref.finalize(self, self._errors.close)
        self._process = subprocess.Popen(
            command or [sys.executable, "-m", "comigs_mlx.model.fetching", model_id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    @property
    def state(self) -> FetchState:
        """How far it is now."""
        code = self._process.poll()
        done = self._total if code == 0 else min(_size(self._folder), self._total)
        failed = code not in (None, 0) and not self._cancelled
        problem = self._problem() if failed else None
        return FetchState(
            self.model, code is None, done, self._total, problem, self._cancelled
        )

    def cancel(self) -> None:
        """End it; what was fetched is kept for the next try."""
        if self._process.poll() is None:
            self._cancelled = True
            self._process.terminate()
            self._process.wait()

    def _problem(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else UNSAID


def place(model_id: str) -> Path:
    """Return the folder whose size tells how much of a model has been fetched."""
    if model_id == DEMO:
        return demo_folder().parent
    from huggingface_hub.constants import HF_HUB_CACHE

    name = model_id.replace("/", "--")
    return Path(HF_HUB_CACHE) / f"models--{name}" / "blobs"


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files are renamed as they are finished
            total += file.lstat().st_size if file.is_file() else 0
    return total


def main(argv: Iterable[str]) -> int:
    """Fetch models, and say in one line what was wrong."""
    try:
        for model_id in argv:
            fetch(model_id)
    except ComigsError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
