"""Which versions of packages are installed. Standard library only."""

from __future__ import annotations

from importlib import metadata


def version(package: str, missing: str = "") -> str:
    """The installed version of a package.

    Args:
        package: Its name on the index, such as `mlx-lm`.
        missing: What to return where it is not installed.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return missing
