"""Checks out another commit into a temporary folder, and runs a process in a tree.

The benchmark's own folder replaces the other commit's, so that both trees are measured
by the same code, also if the other has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comigs_mlx.environment import git, is_checkout
from comigs_mlx.errors import ConfigError
from comigs_mlx.platform import cpu


def resolve(root: Path, commit: str) -> str:
    """Return the full name of a commit of the checkout `root`.

    Raises:
        ConfigError: If `root` is no git checkout, or has no such commit.
    """
    if not is_checkout(root):
        raise ConfigError(
            f"--against {commit}: {root} is not a git checkout with git at hand: clone "
            "the repository and run the benchmark there"
        )
    name = f"{commit}^{{commit}}"
    result = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
    if result.returncode != 0:
        raise ConfigError(
            f"--against {commit}: there is no such commit in {root}; see git log"
        )
    return result.stdout.strip()


@contextlib.contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """Give a temporary folder with the files of `commit`, and remove it at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix="comigs-bench-") as folder:
            # git and Python must spell the path alike, also where /tmp is a link.
            tree = Path(folder).resolve() / "tree"
            add = ("worktree", "add", "--detach", "--quiet", str(tree), commit)
            result = git(root, *add)
            if result.returncode != 0:
                reason = " ".join(result.stderr.split())
                raise ConfigError(
                    f"--against {commit}: git cannot check it out: {reason}"
                )
            yield tree
    finally:
        git(root, "worktree", "prune")  # git forgets a tree whose folder is gone


def lay_over(tree: Path) -> None:
    """Put this folder in place of the benchmark in another tree."""
    benchmark = Path(__file__).resolve().parent
    target = tree / "comigs_mlx" / "benchmark"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(benchmark, target, ignore=shutil.ignore_patterns("__pycache__"))


class TreeProcess:
    """A process that works in one tree; see `tree_worker`."""

    def __init__(self, tree: Path, log: Path, title: str):
        self.tree, self.log, self.title = tree, log, title
        before = os.environ.get("PYTHONPATH")
        paths = os.pathsep.join([str(tree), *([before] if before else [])])
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "comigs_mlx.benchmark.tree_worker"],
                cwd=tree,
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for the parent alone
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            ConfigError: If the tree's code cannot do it; the process has ended then.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # said by the empty answer below
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last()}
        if "error" in answer:
            raise ConfigError(f"{self.title} cannot be measured: {answer['error']}")
        return answer

    def _last(self) -> str:
        """Tell why there was no answer: what ended the process, or its last line."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if (reason := cpu.crash(self.process.wait(timeout=10))) is not None:
                return reason
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "its process ended"

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()
