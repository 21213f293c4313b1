"""Plugins: a plugin is a module of its kind's folder, and its file name is its name.

Adding a router, a text format or an aggregator is adding one file; nothing else
lists them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import pkgutil
from types import ModuleType

from comigs_mlx.errors import ConfigError

KINDS = {
    "aggregator": "comigs_mlx.federation.aggregation.aggregators",
    "case": "comigs_mlx.benchmark.cases",
    "format": "comigs_mlx.data.formats",
    "method": "comigs_mlx.simulation.methods",
    "partition": "comigs_mlx.simulation.datasets.partition",
    "router": "comigs_mlx.model.routers",
}


def names(kind: str) -> list[str]:
    """Names of all plugins of `kind`, sorted, read from the folder (none imported)."""
    spec = importlib.util.find_spec(KINDS[kind])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = pkgutil.iter_modules(list(spec.submodule_search_locations))
    return sorted(m.name for m in found if not m.name.startswith("_"))


def parse(text: str) -> tuple[str, dict[str, float]]:
    """The plugin and its options in `name` or `name:key=value,key=value`.

    Whether there is such a plugin, and what its options may be, is its kind's to say.

    Returns:
        The name, and option -> number.

    Raises:
        ConfigError: If it is not written so, or a value is not a number.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, float] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals or key in options:
            raise ConfigError(
                f"{text}: write NAME, or NAME:key=value,key=value with each key once"
            )
        options[key] = _number(text, key, value)
    return name.strip(), options


def _number(text: str, key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{text}: {key} must be a number, got {value!r}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def load(kind: str, name: str) -> ModuleType:
    """Import the plugin `name` of `kind`.

    Raises:
        ConfigError: If there is no such plugin; the message lists those there are.
    """
    if name not in names(kind):
        known = ", ".join(names(kind))
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {known}")
    return importlib.import_module(f"{KINDS[kind]}.{name}")
