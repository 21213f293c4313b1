"""flower://HOST:PORT: a federation behind a Flower server, as a run remembers it.

Nothing can be read there by itself: the server asks its participants, and these answer.
"""

from __future__ import annotations

from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.formats.redaction import clean

SUMMARY = "a federation behind a Flower server, for `flower client` alone"


def connect(uri: str, **others: Any) -> Exchange:
    """Refuse, and say which command takes part there."""
    del others
    address = clean(uri.removeprefix("flower://"))
    raise FederationError(
        f"flower://{address} is behind a Flower server: python -m comigs_mlx.flower "
        f"client --superlink {address} takes part in it, with the options of train"
    )
