"""Results of a case as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from comigs_mlx.benchmark.measure import Measured
from comigs_mlx.benchmark.spread import Spread, rate, ratio, spread

UNITS = ("_s", "_tps")
"""The endings of a measurement's name: seconds, tokens per second."""

CaseResults = Mapping[str, Spread]
"""Maps a dotted name to a result, as a case's `results` returns them."""


def is_ratio(name: str) -> bool:
    """Tell whether a dotted name stands for a ratio, not for a measurement."""
    return not name.endswith(UNITS)


def section(results: CaseResults) -> dict[str, Any]:
    """Make a case's JSON: values nested by their dotted names, ranges under
    `spread`.
    """
    nested: dict[str, Any] = {}
    for name, result in results.items():
        *groups, leaf = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = result.value
    ranges = {name: [result.low, result.high] for name, result in results.items()}
    return {**nested, "spread": ranges}


def read_section(content: Mapping[str, Any]) -> dict[str, Spread]:
    """Read what `section` made.

    Raises:
        KeyError, TypeError, ValueError: If `section` did not make the content.
    """
    spreads = {}
    for name, (low, high) in content["spread"].items():
        value: Any = content
        for part in name.split("."):
            value = value[part]
        spreads[name] = Spread(float(value), float(low), float(high))
    return spreads


def ratios_only(results: CaseResults) -> dict[str, Spread]:
    """Keep the results that are comparable from one machine to another."""
    return {name: result for name, result in results.items() if is_ratio(name)}


def table(name: str, case: ModuleType, measured: Mapping[str, Measured]) -> str:
    """Write a case as text: median, range and ratio of every variant."""
    return "\n".join(_lines(name, case, measured))


def _lines(
    name: str, case: ModuleType, measured: Mapping[str, Measured]
) -> Iterator[str]:
    reference, first = next(iter(measured.items()))
    unit = "tokens/s" if case.TOKENS else "seconds"
    memory = any(main.startswith("peak_memory") for main in case.MAIN)
    yield f"{name}: {case.SUMMARY}"
    header = f"  {'':20}{unit:>10}{'min to max':>20}"
    header += f"{'x ' + reference:>16}" * (len(measured) > 1)
    yield header + f"{'peak GB':>10}{'x':>7}" * memory
    for variant, runs in measured.items():
        line = f"  {variant:20}{_speed(runs, case.TOKENS)}"
        if len(measured) > 1:
            line += f"{_relative(runs, first, case.TOKENS):16.2f}"
        yield line + _memory(runs, first) * memory


def _speed(runs: Measured, tokens: int) -> str:
    measured = rate(tokens, runs.seconds) if tokens else spread(runs.seconds)
    digits = 1 if tokens else 3
    between = f"{measured.low:.{digits}f} to {measured.high:.{digits}f}"
    return f"{measured.value:10.{digits}f}{between:>20}"


def _relative(runs: Measured, first: Measured, tokens: int) -> float:
    """Divide the first variant's seconds, or tokens per second, by a variant's."""
    pair = (first, runs) if tokens else (runs, first)
    return ratio(pair[0].seconds, pair[1].seconds).value


def _memory(runs: Measured, first: Measured) -> str:
    peak = spread(runs.peak_bytes).value / 1e9
    return f"{peak:10.2f}{ratio(runs.peak_bytes, first.peak_bytes).value:7.2f}"
