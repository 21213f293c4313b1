"""Plugins: a plugin is a module of its kind's folder, and its file name is its name.

Adding a router, a text format or an aggregator is adding one file; nothing else
lists them.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from comigs_mlx.errors import ConfigError

KINDS = {
    "aggregator": "comigs_mlx.federation.aggregators",
    "case": "comigs_mlx.benchmark.cases",
    "format": "comigs_mlx.data.formats",
    "method": "comigs_mlx.simulation.methods",
    "partition": "comigs_mlx.data.partition",
    "router": "comigs_mlx.model.routers",
}


def names(kind: str) -> list[str]:
    """Names of all plugins of `kind`, sorted, read from the folder (none imported)."""
    spec = importlib.util.find_spec(KINDS[kind])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = pkgutil.iter_modules(list(spec.submodule_search_locations))
    return sorted(m.name for m in found if not m.name.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import the plugin `name` of `kind`.

    Raises:
        ConfigError: If there is no such plugin; the message lists those there are.
    """
    if name not in names(kind):
        known = ", ".join(names(kind))
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {known}")
    return importlib.import_module(f"{KINDS[kind]}.{name}")
