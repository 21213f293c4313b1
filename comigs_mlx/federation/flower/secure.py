"""The secure mode: the server learns the mean of the updates, and no single update.

SecAgg+ (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead", CCS 2020, as Flower has it) adds whole numbers: each value of an update is
clipped to [-range, range], rounded to one of 2^22 steps, and masked. So the mean is
exact up to about range / 2^22, and three things are lost, which `LOST` says.

The mean comes into the federation's folder as one contribution, by `SUM`, so that round
files, checks and verification hold for it as for every other contribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.flower.served import Outgoing
from comigs_mlx.federation.formats import contribution
from comigs_mlx.federation.formats.contribution import Prepared
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, digest
from comigs_mlx.federation.rounds import checks, repository, verification
from comigs_mlx.federation.rounds.checks import Expected, Refused
from comigs_mlx.federation.rounds.repository import Federation

SUM = "secure-sum"
"""The participant that the mean is contributed as."""

STEPS = 2**22
"""The number of steps between -range and range; Flower calls it quantization_range."""

MOST = 1000
"""The most participants: their sum of `STEPS` must stay below 2^32."""

LEAST = 3
"""The fewest participants; of two, each could take its own update off the sum."""

LOST = (
    "secure mode: the server learns the mean of the updates and nobody's own. Given up "
    "for it: no contribution is checked, signed or clipped by the others, aggregators "
    "other than mean cannot work, and one participant can spoil a round unseen; it "
    "protects from a server that looks, not from one that makes participants up"
)

FITTED = 8.0
"""The range of a round is so many times the largest value of the mean before it."""


def check(manifest: Manifest) -> None:
    """Raise `FederationError` unless a federation can use this mode."""
    name = manifest.aggregator.name
    if name != "mean":
        raise FederationError(
            f"secure mode knows only the sum, so that the aggregator {name} cannot "
            "work: leave out --mode secure, or found a federation with --aggregator "
            "mean"
        )
    if manifest.participants is not None:
        raise FederationError(
            "secure mode does not show whose an update is, so that a list of "
            "participants or keys cannot hold: found a federation without --allow"
        )
    if not LEAST <= manifest.quorum <= MOST:
        raise FederationError(
            f"secure mode needs from {LEAST} to {MOST} participants in a round: found "
            f"a federation with --quorum {LEAST} or more"
        )


def flat(values: Mapping[str, npt.NDArray[Any]]) -> Array:
    """Return all tensors as one array of float32, [values], in the order of names."""
    parts = [np.asarray(values[name], np.float32).ravel() for name in sorted(values)]
    return np.concatenate(parts)


def unflat(
    values: Array, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Undo `flat`, where the tensors have these shapes.

    Raises:
        FederationError: If the number of values is another one.
    """
    ends = np.cumsum([int(np.prod(shapes[name])) for name in sorted(shapes)])
    if values.shape != (int(ends[-1]),):
        raise FederationError(f"a sum of {values.size} values, expected {ends[-1]}")
    parts = np.split(values, ends[:-1])
    return {
        name: part.reshape(shapes[name])
        for name, part in zip(sorted(shapes), parts, strict=True)
    }


def update_of(exchange: Exchange, ready: Outgoing) -> Array:
    """Return the update that a prepared contribution holds, [values].

    It is checked as the server would check it, as nobody else will.
    """
    federation = repository.current(exchange)
    start = _start(exchange, federation)
    expected = Expected(federation.manifest, ready.round, Arrays("", start))
    judged = checks.check_contribution(ready.files, ready.participant, expected)
    if isinstance(judged, Refused):
        raise FederationError(judged.reason)
    return flat({name: judged.read(name) - start[name] for name in start})


def clipped(update: Array, limit: float) -> int:
    """Return how many values of an update are outside [-limit, limit]."""
    return int((np.abs(update) > limit).sum())


def fitted(mean: Array | None, widest: float) -> float:
    """Return the range of the next round: agreed before any update of it is made.

    A narrow range rounds less, a too narrow one clips. Nobody may look at the updates,
    so that it is a guess: `FITTED` times the largest value of the last mean, and
    `widest` at most and in the first round.

    Args:
        mean: The mean update of the round before, [values]; None in the first round.
        widest: The range of the first round.
    """
    largest = 0.0 if mean is None else float(np.abs(mean).max(initial=0.0))
    return min(FITTED * largest, widest) if largest > 0 else widest


def contributed(
    exchange: Exchange, federation: Federation, mean: Array, counted: Sequence[int]
) -> Prepared:
    """Return the mean of a round's updates as the contribution of `SUM`.

    Args:
        exchange: The repository that the federation is in.
        federation: The state of the federation that the updates started from.
        mean: The mean of the updates, [values].
        counted: The nodes whose updates are in it.

    Raises:
        FederationError: If too few are in it, or it does not fit the generalists.
    """
    quorum = federation.manifest.quorum
    if len(set(counted)) < quorum:
        raise FederationError(f"a sum of {len(set(counted))}, expected {quorum}")
    start = _start(exchange, federation)
    updates = unflat(mean, {name: array.shape for name, array in start.items()})
    return contribution.prepare(
        {name: start[name] + updates[name] for name in start},
        Arrays("", start),
        federation.manifest,
        participant=SUM,
        round=federation.open_round,
        counters={},
        start=digest(start),
    )


def _start(exchange: Exchange, federation: Federation) -> dict[str, Array]:
    revision = federation.snapshot.revision
    return verification.fetch(exchange, revision, federation.manifest)
