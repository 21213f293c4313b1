"""Plugins: files of this package, and modules that other packages register.

A plugin of this package is a module of its kind's folder, and its file name is its
name. Another package registers a module as an entry point in the kind's group:

    [project.entry-points."comigs_mlx.routers"]
    cosine = "my_package.cosine"

Both are found without importing any plugin, so that `--help` stays quick.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import pkgutil
import re
import sys
from importlib import metadata
from types import ModuleType

from comigs_mlx.errors import ConfigError, line

KINDS = {
    "aggregator": "comigs_mlx.federation.aggregation.aggregators",
    "case": "comigs_mlx.benchmark.cases",
    "export": "comigs_mlx.exports.formats",
    "exchange": "comigs_mlx.federation.exchanges.schemes",
    "format": "comigs_mlx.data.formats",
    "method": "comigs_mlx.simulation.methods",
    "partition": "comigs_mlx.simulation.datasets.partition",
    "router": "comigs_mlx.model.routers",
    "source": "comigs_mlx.data.sources",
    "teacher": "comigs_mlx.training.teachers",
    "worker": "comigs_mlx.simulation.workers",
}
"""Kind -> the folder of its built-in plugins."""

GROUPS = {kind: f"comigs_mlx.{kind}s" for kind in KINDS}
"""Kind -> the group of entry points that other packages register its plugins in."""

Value = float | bool | str
"""The value of a plugin's option."""

WORD = re.compile(r"[A-Za-z][\w.+-]*(:\d+)?|\d+(\.\d+){3}:\d+", re.ASCII)
"""Matches a word, or the address of a machine with a port."""


def names(kind: str) -> list[str]:
    """The names of all plugins of `kind`, sorted; no plugin is imported."""
    return sorted({*built_in(kind), *_registered(kind)})


def built_in(kind: str) -> list[str]:
    """The names of this package's own plugins of `kind`, sorted."""
    spec = importlib.util.find_spec(KINDS[kind])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    modules = pkgutil.iter_modules(list(spec.submodule_search_locations))
    return sorted(m.name for m in modules if not m.name.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import the plugin `name` of `kind`.

    Raises:
        ConfigError: If there is no such plugin (the message lists those there are), if
            two packages use the name, or if another package's plugin cannot be
            imported.
    """
    entries = _registered(kind).get(name, ())
    is_built_in = name in built_in(kind)
    if not entries and not is_built_in:
        known = ", ".join(names(kind))
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {known}")
    if len(entries) + is_built_in > 1:
        raise ConfigError(_clash(kind, name, entries, is_built_in))
    if is_built_in:
        return importlib.import_module(f"{KINDS[kind]}.{name}")
    return _import(kind, entries[0])


def _registered(kind: str) -> dict[str, tuple[metadata.EntryPoint, ...]]:
    """Name -> the entry points that other packages register under it."""
    entries: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for entry in _ours(tuple(sys.path)):
        if entry.group == GROUPS.get(kind):
            entries[entry.name] = (*entries.get(entry.name, ()), entry)
    return entries


@functools.lru_cache(maxsize=4)
def _ours(path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """All entry points in our groups, kept because reading them takes milliseconds.

    Args:
        path: The folders that Python imports from: other folders, other packages.
    """
    del path
    installed = metadata.entry_points()
    return tuple(
        entry for group in GROUPS.values() for entry in installed.select(group=group)
    )


def _import(kind: str, entry: metadata.EntryPoint) -> ModuleType:
    """Import another package's plugin; whatever it raises is one line about it."""
    try:
        plugin = entry.load()
    except Exception as error:
        raise ConfigError(
            f"the {kind} {entry.name!r} of the package {_package(entry)} cannot be "
            f"imported: {type(error).__name__}: {line(error)}: update or uninstall "
            "that package"
        ) from error
    if not isinstance(plugin, ModuleType):
        raise ConfigError(
            f"the {kind} {entry.name!r} of the package {_package(entry)} is no module: "
            f"its entry point {entry.value!r} must name a module"
        )
    return plugin


def _clash(
    kind: str, name: str, entries: tuple[metadata.EntryPoint, ...], is_built_in: bool
) -> str:
    owners = [*(["comigs-mlx"] if is_built_in else []), *map(_package, entries)]
    return (
        f"the {kind} {name!r} is in more than one package: {', '.join(owners)}: "
        "uninstall all but one of them, or rename the plugin"
    )


def _package(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def parse(text: str) -> tuple[str, dict[str, Value]]:
    """The plugin and its options in `name` or `name:key=value,key=value`.

    Its kind decides whether there is such a plugin, and what its options may be.

    Returns:
        The name, and option -> number, true or false, or word.

    Raises:
        ConfigError: If the text has another form, or a value is none of these.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Value] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals or key in options:
            raise ConfigError(
                f"{text}: write NAME, or NAME:key=value,key=value with each key once"
            )
        options[key] = _value(text, key, value)
    return name.strip(), options


def _value(text: str, key: str, value: str) -> Value:
    if value in ("true", "false"):
        return value == "true"
    try:
        number = float(value)
    except ValueError:
        if WORD.fullmatch(value):
            return value
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{text}: {key} must be a number, true or false, or a word, got {value!r}"
        )
    return int(number) if number.is_integer() and abs(number) < 1e15 else number
