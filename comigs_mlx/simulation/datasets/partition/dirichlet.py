"""Divides every label in random proportions: from one label each to all alike.

    q_c ~ Dirichlet(alpha, ..., alpha) over participants, for each label c
    participant(d) <- drawn so that label c is divided in the proportions q_c

A small alpha gives each label to few participants, a large one tends to iid. Numbers
of documents differ between participants as well. Source: Hsu, Qi and Brown 2019, arXiv
1909.06335, in the variant of Yurochkin et al. 2019, arXiv 1905.12022, that draws
proportions for each label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from comigs_mlx.simulation.datasets.partition.iid import PARTICIPANTS, numbered

SUMMARY = "every label in random proportions; a small alpha separates them"
OPTIONS = {"alpha": 0.5}


def assign(
    labels: Sequence[str],
    participants: int | None,
    seed: int,
    alpha: float = OPTIONS["alpha"],
) -> list[str]:
    """Choose the participant of each document.

    Args:
        labels: The label of each document.
        participants: The number of participants, by default 4.
        seed: The seed of proportions and draws.
        alpha: The concentration, above 0.
    """
    count = participants or PARTICIPANTS
    rng = np.random.default_rng(seed)
    owners = np.empty(len(labels), np.int64)
    for label in sorted(set(labels)):
        members = np.flatnonzero(
            np.array([of_document == label for of_document in labels])
        )
        shares = rng.dirichlet(np.full(count, alpha))
        bounds = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for owner, part in enumerate(np.split(rng.permutation(members), bounds)):
            owners[part] = owner
    return [numbered(int(owner), count) for owner in owners]
