"""A federation without a server: made, read, pulled from.

Contributions come in by `contributing`, rounds end by `closing`: whoever comes closes
a round that is due, by one commit that builds on exactly the state that was read. Who
loses the race finds a closed round, or a contribution more, and looks again. Nothing
keeps state between calls: killed at any moment, the repository is as before or has one
whole commit more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation import adapter, card
from comigs_mlx.federation.exchange import Exchange, Moved, Snapshot, Unreachable
from comigs_mlx.federation.manifest import MANIFEST, MANIFEST_BYTES, Manifest, Shapes
from comigs_mlx.federation.sources import Array, Arrays, shapes
from comigs_mlx.federation.state import ROUND, ROUND_BYTES, Round
from comigs_mlx.federation.waiting import tries


@dataclass(frozen=True, eq=False)
class Federation:
    """A federation at one moment.

    Attributes:
        manifest: What its participants agree on.
        round: The last closed round.
        snapshot: The files it was read from.
    """

    manifest: Manifest
    round: Round
    snapshot: Snapshot

    @property
    def open_round(self) -> int:
        """The number of the round that takes contributions."""
        return self.round.round + 1


def initialise(
    exchange: Exchange,
    manifest: Manifest,
    generalists: Mapping[str, npt.NDArray[Any]],
    now: float,
    private: bool = False,
) -> Federation:
    """Make a federation in an empty repository, by one commit.

    The same call again (after an answer that was lost) finds that it is done.

    Args:
        exchange: The repository; made if it is not there.
        manifest: What the participants agree on.
        generalists: Tensor -> first values.
        now: Seconds since the epoch.
        private: Make a private repository.

    Raises:
        FederationError: If there is another federation already; it stays as it is.
    """
    adapter.check_shapes(shapes(Arrays("", generalists)), manifest)
    first = Round(aggregator=manifest.aggregator.name, closed_at=now)
    tensors = adapter.files(generalists, manifest)
    files = {
        **tensors,
        MANIFEST: manifest.to_json(),
        ROUND: first.to_json(),
        card.README: card.render(manifest, first, exchange.uri),
    }
    exchange.create(private)
    for _ in tries():
        snapshot = exchange.snapshot()
        if MANIFEST in snapshot.files:
            _check_mine(exchange, snapshot, {**tensors, MANIFEST: files[MANIFEST]})
            return current(exchange)
        with contextlib.suppress(Moved), answered(exchange, files):
            exchange.commit(files, "Begin the federation", snapshot.revision)
    raise Unreachable(f"{exchange.uri} is being written to all the time: try again")


def current(exchange: Exchange) -> Federation:
    """The federation as it is now.

    Raises:
        NotThere: If there is no such repository.
        FederationError: If there is no federation in it, or one that this version
            cannot read.
    """
    for _ in tries():
        # A folder keeps no history: it may change between listing and reading.
        with contextlib.suppress(Moved):
            return _read(exchange, exchange.snapshot())
    raise Unreachable(f"{exchange.uri} is being written to all the time: try again")


def _read(exchange: Exchange, snapshot: Snapshot) -> Federation:
    if MANIFEST not in snapshot.files or ROUND not in snapshot.files:
        raise FederationError(
            f"there is no federation in {exchange.uri}: check --federation, or make "
            "one with python -m comigs_mlx.sync init"
        )
    manifest = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    round = exchange.read(ROUND, snapshot.revision, ROUND_BYTES)
    return Federation(Manifest.from_json(manifest), Round.from_json(round), snapshot)


def pull(
    exchange: Exchange, federation: Federation, own: Shapes | None = None
) -> dict[str, Array]:
    """Tensor -> float32 values of the current generalists.

    Args:
        exchange: Where they are.
        federation: From `current`.
        own: The shapes of this participant's generalists; None takes what the
            manifest allows.

    Raises:
        FederationError: If they cannot be used.
        Moved: If the exchange keeps no history and has changed since.
    """
    manifest, revision = federation.manifest, federation.snapshot.revision
    contents = {
        path: exchange.read(path, revision, manifest.max_bytes)
        for path in adapter.paths(manifest)
    }
    return adapter.read(contents, manifest, own)


@contextlib.contextmanager
def answered(exchange: Exchange, files: Mapping[str, bytes]) -> Iterator[None]:
    """Around a commit: an answer that was lost is none if `files` are there."""
    try:
        yield
    except Unreachable as error:
        if not error.maybe_done or not is_there(exchange, exchange.snapshot(), files):
            raise


def is_there(
    exchange: Exchange, snapshot: Snapshot, files: Mapping[str, bytes]
) -> bool:
    """Whether `files` are in the repository with exactly this content."""
    for path, content in files.items():
        found = snapshot.files.get(path)
        if found is None or found.size != len(content):
            return False
    return all(
        exchange.read(path, snapshot.revision, len(content)) == content
        for path, content in files.items()
    )


def _check_mine(
    exchange: Exchange, snapshot: Snapshot, files: Mapping[str, bytes]
) -> None:
    if not is_there(exchange, snapshot, files):
        raise FederationError(
            f"{exchange.uri} has a federation already: join it with sync pull, or "
            "choose another --federation"
        )
