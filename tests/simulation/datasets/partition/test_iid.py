from __future__ import annotations

from collections import Counter

import pytest

from comigs_mlx.simulation.datasets.partition import iid


@pytest.mark.parametrize(("documents", "participants"), [(7, 3), (100, 12), (5, 5)])
def test_shares_differ_by_one_document_at_most(
    documents: int, participants: int
) -> None:
    counts = Counter(iid.assign(["x"] * documents, participants, 0))
    assert len(counts) == participants
    assert set(counts.values()) <= {
        documents // participants, -(-documents // participants)
    }  # fmt: skip


def test_another_seed_is_another_order() -> None:
    labels = ["x"] * 60
    assert iid.assign(labels, 4, 0) != iid.assign(labels, 4, 1)


def test_every_participant_has_the_labels_of_all() -> None:
    """Within six standard deviations of a hypergeometric draw."""
    labels = ["a"] * 3000 + ["b"] * 1000
    owners = iid.assign(labels, 4, 0)
    for owner in set(owners):
        mine = Counter(lb for lb, o in zip(labels, owners, strict=True) if o == owner)
        assert abs(mine["a"] - 750) < 6 * (1000 * 0.75 * 0.25) ** 0.5


def test_names_sort_as_numbers() -> None:
    names = sorted(set(iid.assign(["x"] * 40, 12, 0)))
    assert names == [f"p{i:02d}" for i in range(12)]
