"""The state that a federation's aggregator has after a round."""

from __future__ import annotations

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate, state_file
from comigs_mlx.federation.aggregation.aggregate import State
from comigs_mlx.federation.aggregation.state_file import STATE_FILE
from comigs_mlx.federation.exchanges.base import Exchange, Snapshot
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Source


def read(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    round: Round,
    current: Source,
) -> State:
    """Read the state after `round`, which the next round's update continues from.

    Where round.json states none, or another aggregator closed the round, it is the
    state that the manifest's aggregator begins with.

    Args:
        exchange: The repository to read from.
        snapshot: The state of the repository to read.
        manifest: The manifest of the federation.
        round: The last closed round.
        current: The generalists of that round.

    Raises:
        FederationError: If the file is missing, or is not what round.json states.
    """
    choice = manifest.aggregator
    begin = aggregate.initial(choice.name, current, choice.options)
    if not begin or round.state is None or round.aggregator != choice.name:
        return begin
    if STATE_FILE not in snapshot.files:
        raise FederationError(
            f"{STATE_FILE}, which the aggregator {choice.name} continues from, is "
            "missing in the federation: go back to an earlier commit"
        )
    most = state_file.most_bytes(begin)
    content = exchange.read(STATE_FILE, snapshot.revision, most)
    return state_file.from_bytes(content, begin, round.state)


def keeps(manifest: Manifest) -> bool:
    """Tell whether the federation's aggregator has a state that rounds hand on."""
    return hasattr(aggregate.load(manifest.aggregator.name), "init")
