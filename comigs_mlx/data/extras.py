"""Optional packages of formats: what is missing is said once, with how to get it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from comigs_mlx.errors import DataError


class NeedsExtra(DataError):
    """A file needs a package that is not installed.

    Attributes:
        what: The files that need it, in the plural, and how to install it.
    """

    def __init__(self, path: Path, what: str, extra: str) -> None:
        """Say that `path`, one of `what`, needs the extra `extra`."""
        self.what = f"{what} (pip install 'comigs-mlx[{extra}]')"
        super().__init__(
            f"{path}: reading {what} needs more packages: pip install "
            f"'comigs-mlx[{extra}]'"
        )


def needed(module: str, path: Path, what: str, extra: str) -> ModuleType:
    """Import `module`, which reads `path`.

    Raises:
        NeedsExtra: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NeedsExtra(path, what, extra) from error
