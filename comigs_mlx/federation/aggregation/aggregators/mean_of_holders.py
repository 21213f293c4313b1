"""The average of each generalist over the participants that have trained it.

    theta^g <- mean of theta_i^g over the i with theta_i^g != theta^g

For federations whose participants have different numbers of generalists: a contribution
names all generalists of the federation, and those that the participant does not have
are in it as they were. Such a generalist has no vote. One that nobody has trained stays
as it is. Averaging over the holders is our choice; Fan et al., "On-Device Collaborative
Language Modeling via a Mixture of Generalists and Specialists", ICML 2025, do not say
how they average more generalists than one. Reads every tensor
twice. Memory: one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from comigs_mlx.federation.aggregation.aggregate import Option, State, Update, mean
from comigs_mlx.federation.formats.tensor_source import Array, Source, by_file

SUMMARY = "average of each generalist over those who have trained it"
HANDLES_RANKS = False
ROBUST = False
OPTIONS: dict[str, Option] = {}


def update(contributions: Sequence[Source], current: Source, state: State) -> Update:
    """The mean over the holders of each generalist."""
    del state
    return Update({}, _means(contributions, current))


def _means(
    contributions: Sequence[Source], current: Source
) -> Iterator[tuple[str, Array]]:
    for tensors in by_file(current.names()).values():  # one file is one generalist
        names = sorted(tensors.values())
        holders = [s for s in contributions if _trained(s, current, names)]
        for name in names:
            average = mean(holders, name) if holders else None
            now = current.read(name) if average is None else average
            yield name, now.astype(np.float32)


def _trained(source: Source, current: Source, names: Iterable[str]) -> bool:
    """Whether any tensor differs from the current one by more than its encoding."""
    for name in names:
        given, now = source.read(name), current.read(name)
        rounded = now.astype(np.float16).astype(np.float32)
        if not (np.array_equal(given, now) or np.array_equal(given, rounded)):
            return True
    return False
