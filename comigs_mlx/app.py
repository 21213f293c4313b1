"""`python -m comigs_mlx.app`: a local page to chat, see who speaks, train and share."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from comigs_mlx import command
from comigs_mlx.environment import ROOT
from comigs_mlx.errors import ConfigError

PACKAGES = ("comigs_app", "app")
"""What the page's package is called: installed from a wheel, and in a checkout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Open the page.

    Raises:
        ConfigError: If the page's package is not there.
    """
    importlib.import_module(f"{package()}.__main__").main(argv)


def package() -> str:
    """Find the page's package: the one beside this package, and no other.

    A module `app` of somebody else, or the page of another checkout that is installed
    while this one is used, lies elsewhere.

    Raises:
        ConfigError: If it is not there.
    """
    for name in PACKAGES:
        for origin in _origins(name):
            if origin.parent in (ROOT / "comigs_app", ROOT / "app"):
                return name
    raise ConfigError(
        "the page's files are not installed: pip install --force-reinstall "
        "'comigs-mlx[app]', or run python -m app in a checkout"
    )


def _origins(name: str) -> Iterator[Path]:
    """The file of a package that could be imported, if there is one."""
    with suppress(ValueError):  # an odd module of that name is loaded already
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).resolve()


if __name__ == "__main__":
    command.run(main)
