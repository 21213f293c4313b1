"""Results of a case as JSON and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from comigs_mlx.benchmark.measure import Measured
from comigs_mlx.benchmark.spread import Spread, rate, ratio, spread

UNITS = ("_s", "_tps")
"""How the name of a measurement ends: seconds, tokens per second."""

Found = Mapping[str, Spread]
"""Dotted name -> what was found, as a case's `results` gives it."""


def is_ratio(name: str) -> bool:
    """Whether a dotted name stands for a ratio, not for a measurement."""
    return not name.endswith(UNITS)


def section(found: Found) -> dict[str, Any]:
    """A case's JSON: values nested by their dotted names, ranges under `spread`."""
    nested: dict[str, Any] = {}
    for name, one in found.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = one.value
    ranges = {name: [one.low, one.high] for name, one in found.items()}
    return {**nested, "spread": ranges}


def read_section(content: Mapping[str, Any]) -> dict[str, Spread]:
    """The inverse of `section`.

    Raises:
        KeyError, TypeError, ValueError: If it was not made by `section`.
    """
    spreads = {}
    for name, (low, high) in content["spread"].items():
        value: Any = content
        for part in name.split("."):
            value = value[part]
        spreads[name] = Spread(float(value), float(low), float(high))
    return spreads


def ratios_only(found: Found) -> dict[str, Spread]:
    """What stays comparable from one machine to another."""
    return {name: one for name, one in found.items() if is_ratio(name)}


def table(name: str, case: ModuleType, measured: Mapping[str, Measured]) -> str:
    """A case for people: median, range and ratio of every variant."""
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
    for variant, one in measured.items():
        line = f"  {variant:20}{_speed(one, case.TOKENS)}"
        if len(measured) > 1:
            line += f"{_relative(one, first, case.TOKENS):16.2f}"
        yield line + _memory(one, first) * memory


def _speed(one: Measured, tokens: int) -> str:
    measured = rate(tokens, one.seconds) if tokens else spread(one.seconds)
    digits = 1 if tokens else 3
    between = f"{measured.low:.{digits}f} to {measured.high:.{digits}f}"
    return f"{measured.value:10.{digits}f}{between:>20}"


def _relative(one: Measured, first: Measured, tokens: int) -> float:
    """How many times the first variant's seconds, or its tokens per second."""
    pair = (first, one) if tokens else (one, first)
    return ratio(pair[0].seconds, pair[1].seconds).value


def _memory(one: Measured, first: Measured) -> str:
    peak = spread(one.peak_bytes).value / 1e9
    return f"{peak:10.2f}{ratio(one.peak_bytes, first.peak_bytes).value:7.2f}"
