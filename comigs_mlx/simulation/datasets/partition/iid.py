"""Makes participants as alike as chance allows: the control of every comparison.

    participant(d) <- position of d in a random order, modulo the number of participants

so numbers of documents differ by one at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUMMARY = "every participant a random share"
OPTIONS: dict[str, float] = {}

PARTICIPANTS = 4
"""The number of participants without `--participants`."""


def assign(labels: Sequence[str], participants: int | None, seed: int) -> list[str]:
    """Choose the participant of each document.

    Args:
        labels: The label of each document; only their number matters.
        participants: The number of participants, by default 4.
        seed: The seed of the random order.
    """
    count = participants or PARTICIPANTS
    order = np.random.default_rng(seed).permutation(len(labels))
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels))
    return [numbered(int(place) % count, count) for place in places]


def numbered(number: int, count: int) -> str:
    """Return `p03`, with as many digits as the last of `count` participants needs."""
    return f"p{number:0{len(str(count - 1))}d}"
