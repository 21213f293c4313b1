"""A path without a scheme: a folder on this machine or on a shared drive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.exchanges.folder import FolderExchange

SUMMARY = "a folder on this machine or on a shared drive"


def connect(uri: str, *, patience: float, **others: Any) -> Exchange:
    """Open the folder at the path `uri`, where `~` is the home folder."""
    del others
    return FolderExchange(Path(uri).expanduser(), patience=patience)
