"""Keeps ratios in a file and compares them. Standard library only.

Ratios move from one machine to another, seconds do not, so none are kept. A ratio got
worse when its median lies outside the old range and the old median outside the new
one: by more than the spread of either run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import registry
from comigs_mlx.benchmark.case_results import (
    CaseResults,
    ratios_only,
    read_section,
    section,
)
from comigs_mlx.benchmark.shape import BenchShape
from comigs_mlx.benchmark.spread import Spread
from comigs_mlx.errors import ConfigError
from comigs_mlx.files import write_json

TOLERANCE = 0.02
"""The relative change below which a ratio is unchanged, however narrow the ranges
are.
"""

SAME = ("model", "batch_size", "seq_len", "rank")
"""The sizes that must be equal for ratios to be comparable."""


@dataclass(frozen=True)
class SavedRatios:
    """The content of a file: the ratios of each case, with machine and sizes."""

    environment: dict[str, Any]
    shape: dict[str, Any]
    cases: Mapping[str, CaseResults]


@dataclass(frozen=True)
class Change:
    """A main ratio, then and now."""

    name: str
    old: Spread
    new: Spread
    worse: bool


def content(
    environment: dict[str, Any], shape: BenchShape, cases: Mapping[str, CaseResults]
) -> dict[str, Any]:
    """Make the file's JSON: of every case the ratios, never seconds."""
    sections = {name: section(ratios_only(results)) for name, results in cases.items()}
    return {"environment": environment, "shape": shape.to_dict(), **sections}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `content` made, atomically."""
    write_json(path, content)


def read(path: Path) -> SavedRatios:
    """Read the ratios in a file; cases that this version does not know are left out.

    Raises:
        ConfigError: If the file is missing or holds no ratios.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name in registry.names("case") if name in values]
        cases = {name: ratios_only(read_section(values[name])) for name in names}
        return SavedRatios(dict(values["environment"]), dict(values["shape"]), cases)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds no benchmark ratios: write it with "
            "python -m comigs_mlx.bench --write"
        ) from error


def changes(old: SavedRatios, new: Mapping[str, CaseResults]) -> Iterator[Change]:
    """Yield the main ratios that both have, in the order of `new`."""
    for case_name, results in new.items():
        case, before = registry.load("case", case_name), old.cases.get(case_name, {})
        for name, ratio in ratios_only(results).items():
            if name in before and name.split(".")[0] in case.MAIN:
                bad = worse(before[name], ratio, higher_is_better=bool(case.TOKENS))
                yield Change(f"{case_name}.{name}", before[name], ratio, bad)


def worse(old: Spread, new: Spread, higher_is_better: bool) -> bool:
    """Tell whether a ratio got worse by more than the spread and the tolerance."""
    if higher_is_better:
        old, new = _inverse(old), _inverse(new)
    margin = old.value * (1 + TOLERANCE)
    return new.value > max(old.high, margin) and new.low > old.value


def _inverse(ratio: Spread) -> Spread:
    return Spread(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def differences(
    old: SavedRatios, environment: Mapping[str, Any], shape: BenchShape
) -> Iterator[str]:
    """Yield the reasons why old and new ratios may not be comparable, a sentence
    each.
    """
    current = shape.to_dict()
    for name in SAME:
        if old.shape.get(name) != current[name]:
            yield (
                f"not comparable: {name.replace('_', ' ')} was "
                f"{old.shape.get(name)!r}, is {current[name]!r}"
            )
    for name in ("chip", "device", "mlx", "mlx-lm"):
        if old.environment.get(name) != environment.get(name):
            yield (
                f"{name} was {old.environment.get(name)!r}, "
                f"is {environment.get(name)!r}"
            )


def table(changes: Iterable[Change]) -> str:
    """Write old and new of the main ratios as text."""
    lines = [f"  {'':36}{'old':>8}{'new':>8}"]
    for change in changes:
        mark = "   WORSE by more than the spread" * change.worse
        lines.append(
            f"  {change.name:36}{change.old.value:8.2f}{change.new.value:8.2f}{mark}"
        )
    return "\n".join(lines)


def markdown(saved: SavedRatios) -> str:
    """Write the main ratios and their machine, for the documentation."""
    shape, where = saved.shape, saved.environment
    lines = [
        f"{shape['model']}, {shape['batch_size']} x {shape['seq_len']} tokens, rank "
        f"{shape['rank']}; {where['chip']}, {where['device']}, mlx {where['mlx']}, "
        f"mlx-lm {where['mlx-lm']}, commit {where['commit']}:",
        "",
        "| | median | of all rounds |",
        "|---|---:|---:|",
    ]
    for case, results in saved.cases.items():
        main = registry.load("case", case).MAIN
        for name, ratio in results.items():
            if name.split(".")[0] in main:
                spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
                lines.append(f"| {case} {name} | {ratio.value:.2f} | {spread} |")
    return "\n".join(lines)


COLUMNS = {
    "2 experts": ("train_step", "by_experts.2"),
    "4 experts": ("train_step", "by_experts.4"),
    "8 experts": ("train_step", "by_experts.8"),
    "router step": ("router_step", "ratio"),
    "peak memory, 2 experts": ("train_step", "peak_memory_ratio"),
}
"""Maps a heading of `summary` to a case and its ratio."""


def summary(files: Iterable[Path]) -> str:
    """Write the price of a step in one row a file, for the documentation."""
    lines = ["| base, tokens | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * len(COLUMNS))
    for saved in map(read, files):
        shape = saved.shape
        values = (saved.cases[case][name].value for case, name in COLUMNS.values())
        cells = [f"{value:.2f}" for value in values]
        where = f"{shape['model']}, {shape['batch_size']} x {shape['seq_len']}"
        lines.append(f"| {where} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
