"""aggregator.safetensors: what an aggregator keeps from round to round.

The file lies beside the generalists, is written by the commit that closes a round, and
is there only where the aggregator remembers something. round.json states the digest of
its values, and whoever verifies a round computes the state again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation.aggregate import State
from comigs_mlx.federation.formats.tensor_file import (
    read_layout,
    read_tensor,
    specs,
)
from comigs_mlx.federation.formats.tensor_source import Array, digest
from comigs_mlx.tensors import serialise

STATE_FILE = "aggregator.safetensors"


def to_bytes(state: State) -> bytes:
    """The content of the file; the same values give the same bytes."""
    return serialise(state, {"format": "mlx"})


def most_bytes(like: State) -> int:
    """The most bytes that a file of a state with these names and shapes may have."""
    header = 4096 + sum(200 + len(name) for name in like)
    return header + sum(array.nbytes for array in like.values())


def from_bytes(content: bytes, like: State, stated: str) -> dict[str, Array]:
    """Read and check the content of the file.

    Args:
        content: The content; anybody may have written it.
        like: A state of the same aggregator, whose names and shapes it must have.
        stated: The digest of the values, as round.json states it.

    Raises:
        FederationError: If it is no such file, if a value is not finite, or if the
            values are not those that round.json states.
    """
    try:
        layout = read_layout(content, specs(like))
        state = {n: read_tensor(content, layout.entries[n]) for n in sorted(like)}
        _check(state, stated)
    except FederationError as error:
        raise FederationError(
            f"{STATE_FILE} of the federation cannot be used: {error}; go back to an "
            "earlier commit"
        ) from None
    return state


def _check(state: Mapping[str, Array], stated: str) -> None:
    if not all(bool(np.isfinite(array).all()) for array in state.values()):
        raise FederationError("a value is not finite")
    if digest(state) != stated:
        raise FederationError("it is not the state that round.json states")
