"""A federation without a server: how it is made, read and pulled from.

Contributions come in by `submit`, and rounds end by `closing`: any participant closes a
round that is due, by one commit that builds on exactly the state that was read. If two
do, the slower one finds a closed round, or one contribution more, and looks again.
Nothing keeps state between calls: if a process is killed, the repository is as before
or has one whole commit more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.exchanges.base import Exchange, Moved, Snapshot, Unreachable
from comigs_mlx.federation.exchanges.retry import tries
from comigs_mlx.federation.formats import adapter, model_card
from comigs_mlx.federation.formats.manifest import (
    ACCOUNT,
    MANIFEST,
    MANIFEST_BYTES,
    Manifest,
    Shapes,
)
from comigs_mlx.federation.formats.round import ROUND, Round
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, digest, shapes
from comigs_mlx.federation.rounds import verification
from comigs_mlx.federation.rounds.verification import FederationState, Trust


class NotFounded(FederationError):
    """The error of a repository or folder in which there is no federation."""

    kind = "nowhere"


@dataclass(frozen=True, eq=False)
class Federation(FederationState):
    """A federation at one moment.

    Attributes:
        trust: The trust of the run in it: what is taken without verification.
    """

    trust: Trust = field(default_factory=Trust)

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

    A second call (after an answer that was lost) finds that it is done.

    Args:
        exchange: The repository, which is made if it is not there.
        manifest: The manifest, which all participants agree on.
        generalists: Maps each tensor of the generalists to its first values.
        now: The present time, in seconds since the epoch.
        private: Whether to make a private repository.

    Raises:
        FederationError: If there is another federation already, which stays as it is,
            or if the manifest's aggregator cannot work.
    """
    adapter.check_shapes(shapes(Arrays("", generalists)), manifest)
    aggregate.check(manifest.aggregator.name, manifest.aggregator.options)
    manifest = _founded(manifest, committer(exchange))
    beginning = Round(
        aggregator=manifest.aggregator.name,
        closed_at=now,
        generalist=digest(generalists),
        closed_by=manifest.founder,
    )
    tensors = adapter.files(generalists, manifest)
    files = {
        **tensors,
        MANIFEST: manifest.to_json(),
        ROUND: beginning.to_json(),
        model_card.README: model_card.render(manifest, beginning, exchange.uri),
    }
    exchange.create(private)
    for _ in tries():
        snapshot = exchange.snapshot()
        if MANIFEST in snapshot.files:
            _check_ours(exchange, snapshot, manifest, tensors)
            return current(exchange)
        with contextlib.suppress(Moved), answered(exchange, files):
            exchange.commit(files, "Begin the federation", snapshot.revision)
    raise Unreachable(f"{exchange.uri} is being written to all the time: try again")


def current(exchange: Exchange, trust: Trust | None = None) -> Federation:
    """Read the federation as it is now.

    Args:
        exchange: The repository that the federation is in.
        trust: The trust of the run in it; None trusts nothing without verification.

    Raises:
        NotThere: If there is no such repository.
        FederationError: If there is no federation in it, or one that this version
            cannot read.
    """
    for _ in tries():
        # A folder keeps no history: it may change between listing and reading.
        with contextlib.suppress(Moved):
            return _read(exchange, exchange.snapshot(), trust or Trust())
    raise Unreachable(f"{exchange.uri} is being written to all the time: try again")


def _read(exchange: Exchange, snapshot: Snapshot, trust: Trust) -> Federation:
    if MANIFEST not in snapshot.files or ROUND not in snapshot.files:
        raise NotFounded(
            f"there is no federation in {exchange.uri}: check --federation, or make "
            "one with python -m comigs_mlx.sync init"
        )
    state = verification.read(exchange, snapshot)
    return Federation(state.manifest, state.round, snapshot, trust)


def pull(
    exchange: Exchange, federation: Federation, own: Shapes | None = None
) -> dict[str, Array]:
    """Read and verify the current generalists, float32 values by tensor; see
    `verification`.

    Args:
        exchange: The repository to read from.
        federation: The state of the federation to act on, from `repository.current`.
        own: The shapes of this participant's generalists; None takes what the manifest
            allows.

    Raises:
        FederationError: If they cannot be used.
        Unverified: If they are not what the last round's contributions make.
        Moved: If the exchange keeps no history and has changed since.
    """
    revision = federation.snapshot.revision
    values = verification.fetch(exchange, revision, federation.manifest, own)
    verification.check(exchange, federation, federation.trust, values)
    return values


@contextlib.contextmanager
def answered(exchange: Exchange, files: Mapping[str, bytes]) -> Iterator[None]:
    """Commit in this block: a lost answer is no error if `files` are there."""
    try:
        yield
    except Unreachable as error:
        if not error.maybe_done or not is_there(exchange, exchange.snapshot(), files):
            raise


def is_there(
    exchange: Exchange, snapshot: Snapshot, files: Mapping[str, bytes]
) -> bool:
    """Tell whether `files` are in the repository with exactly this content."""
    for path, content in files.items():
        file = snapshot.files.get(path)
        if file is None or file.size != len(content):
            return False
    return all(
        exchange.read(path, snapshot.revision, len(content)) == content
        for path, content in files.items()
    )


def committer(exchange: Exchange) -> str | None:
    """Return the account that commits here, as files of a federation can state it."""
    account = exchange.account()
    return account if account and re.fullmatch(ACCOUNT, account) else None


def _founded(manifest: Manifest, account: str | None) -> Manifest:
    """Complete the manifest with what tells this federation from every other one."""
    identity = manifest.id or secrets.token_hex(16)
    return dataclasses.replace(
        manifest,
        id=identity,
        founder=manifest.founder or account,
        norm_few=manifest.norm_few or "bounded",
    )


def _check_ours(
    exchange: Exchange,
    snapshot: Snapshot,
    manifest: Manifest,
    tensors: Mapping[str, bytes],
) -> None:
    """Raise unless the same call founded it before; only the random id may differ."""
    content = exchange.read(MANIFEST, snapshot.revision, MANIFEST_BYTES)
    existing = Manifest.from_json(content)
    expected = dataclasses.replace(manifest, id=existing.id, founder=existing.founder)
    if existing != expected or not is_there(exchange, snapshot, tensors):
        raise FederationError(
            f"{exchange.uri} has a federation already: join it with sync pull, or "
            "choose another --federation"
        )
