"""YAML as mlx-lm reads it: flat mappings in which 1e-5 is a number."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any, TypeVar

from comigs_mlx.errors import ConfigError, line

T = TypeVar("T")


def _with_numbers(kind: type[T]) -> type[T]:
    """A YAML loader or dumper for which 1e-5 is a number, as mlx-lm's loader has it."""
    number = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$")
    changed: Any = type(kind.__name__, (kind,), {})
    changed.add_implicit_resolver(
        "tag:yaml.org,2002:float", number, list("-+.0123456789")
    )
    return typing.cast("type[T]", changed)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat YAML mapping; dashes in its keys count as underscores.

    Raises:
        ConfigError: If the file is missing or is not a flat mapping.
    """
    import yaml

    try:
        content = yaml.load(
            path.read_text(encoding="utf-8"), _with_numbers(yaml.SafeLoader)
        )
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {path}: {line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'option: value' lines")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def dump(values: dict[str, Any]) -> str:
    """The YAML of a flat mapping, readable by `read_yaml`; tuples become lists."""
    import yaml

    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    dumper = _with_numbers(yaml.SafeDumper)
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False)
    return text
