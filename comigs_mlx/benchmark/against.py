"""Compares this version's steps with another commit's, in turns on one machine.

One process works in each tree (`trees`). Only one of them computes at a time, and
rounds alternate, so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.benchmark.shape import BenchShape
from comigs_mlx.benchmark.spread import ratio, spread
from comigs_mlx.benchmark.trees import TreeProcess, checkout, lay_over
from comigs_mlx.errors import ConfigError

CASES = ("train_step", "router_step")
"""The cases that can be measured against a commit."""

OLD, NEW = "old", "new"
WARM_UP = 0

PAUSE = 0.1
"""The pause between two turns: a BLAS library's threads spin a while after work."""


@dataclass(frozen=True)
class TreeRun:
    """One run in one of the two trees."""

    case: str
    variant: str
    tree: str
    round: int
    seconds: float


@contextlib.contextmanager
def _workers(root: Path, commit: str) -> Iterator[tuple[dict[str, TreeProcess], Path]]:
    """Start a worker in each tree; end and remove them whatever happens."""
    with (
        _terminable(),
        checkout(root, commit) as tree,
        contextlib.ExitStack() as stack,
    ):
        lay_over(tree)
        titles = {OLD: (tree, f"--against {commit[:12]}"), NEW: (root, "this tree")}
        workers = {}
        for name, (folder, title) in titles.items():
            log = tree.parent / f"{name}.log"
            workers[name] = TreeProcess(folder, log, title)
            stack.callback(workers[name].stop)
        yield workers, tree.parent


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, where signals can be set."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def turns(
    root: Path, commit: str, shape: BenchShape, cases: Sequence[str]
) -> Iterator[TreeRun]:
    """Run every variant of `cases` in both trees, a warm-up and `shape.rounds` rounds.

    Args:
        root: The checkout with this version.
        commit: The full name of the other commit.
        shape: The sizes that both trees measure with.
        cases: The cases to measure, out of `CASES`.

    Raises:
        ConfigError: If one of the two versions cannot be measured.
    """
    with _workers(root, commit) as (workers, scratch):
        plans = {}
        for name, worker in workers.items():
            answer = worker.ask(
                shape=shape.to_dict(), cases=list(cases), scratch=str(scratch)
            )
            _check_library(worker, answer["library"])
            plans[name] = answer["variants"]
        for index in range(shape.rounds + 1):
            # The first tree changes, so that neither is always the warmer one.
            order = (OLD, NEW) if index % 2 == 0 else (NEW, OLD)
            for case, variant, tree in _round(plans[NEW], order):
                time.sleep(PAUSE)
                answer = workers[tree].ask(case=case, variant=variant, round=index)
                yield TreeRun(case, variant, tree, index, answer["seconds"])


def _round(
    variants: dict[str, list[str]], order: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    for case, names in variants.items():
        for name in names:
            for tree in order:
                yield case, name, tree


def _check_library(worker: TreeProcess, library: str) -> None:
    """Check that the library is the tree's, not one that is installed."""
    if Path(library) != worker.tree.resolve():
        raise ConfigError(
            f"{worker.title} cannot be measured: its package comigs_mlx was found in "
            f"{library}"
        )


def count(shape: BenchShape, cases: Sequence[str]) -> int:
    """Count the turns that there will be."""
    variants = {"train_step": 1 + len(shape.experts) + len(shape.naive)}
    return 2 * (shape.rounds + 1) * sum(variants.get(case, 2) for case in cases)


def section(turns: Iterable[TreeRun]) -> dict[str, Any]:
    """Return old and new median (seconds) and their ratio, by case and variant."""
    seconds: dict[tuple[str, str], dict[str, list[float]]] = {}
    for turn in turns:
        if turn.round != WARM_UP:
            by_tree = seconds.setdefault((turn.case, turn.variant), {OLD: [], NEW: []})
            by_tree[turn.tree].append(turn.seconds)
    sections: dict[str, Any] = {}
    for (case, variant), by_tree in seconds.items():
        change = ratio(by_tree[NEW], by_tree[OLD])
        sections.setdefault(case, {})[variant] = {
            "old_s": spread(by_tree[OLD]).value,
            "new_s": spread(by_tree[NEW]).value,
            "ratio": change.value,
            "spread": [change.low, change.high],
        }
    return sections


def table(commit: str, cases: dict[str, Any]) -> str:
    """Write the same as text."""
    lines = [f"seconds; old = {commit[:12]}, new = this tree"]
    for case, variants in cases.items():
        lines.append(f"{case}{'old':>{34 - len(case)}}{'new':>10}{'new / old':>11}")
        for name, numbers in variants.items():
            low, high = numbers["spread"]
            lines.append(
                f"  {name:24}{numbers['old_s']:8.3f}{numbers['new_s']:10.3f}"
                f"{numbers['ratio']:11.2f}   ({low:.2f} to {high:.2f})"
            )
    return "\n".join(lines)
