"""What every partitioner must do, for each file of `simulation/datasets/partition`."""

from __future__ import annotations

import inspect
import re

import pytest

from comigs_mlx import registry
from comigs_mlx.federation.formats.manifest import PARTICIPANT

NAMES = registry.names("partition")
LABELS = ["a", "b", "b", "c", "a", "d", "d", "d"] * 50


@pytest.mark.parametrize("name", NAMES)
class TestPartitioner:
    def test_describes_itself(self, name: str) -> None:
        plugin = registry.load("partition", name)
        assert 10 < len(plugin.SUMMARY) < 88
        assert all(map(inspect.getdoc, (plugin, plugin.assign)))
        assert "<-" in plugin.__doc__
        known = set(inspect.signature(plugin.assign).parameters)
        assert known == {"labels", "participants", "seed", *plugin.OPTIONS}

    def test_every_document_has_one_owner_with_a_name_to_share_under(
        self, name: str
    ) -> None:
        owners = registry.load("partition", name).assign(LABELS, None, 0)
        assert len(owners) == len(LABELS)
        assert all(re.fullmatch(PARTICIPANT, owner) for owner in owners)
        assert len(set(owners)) == 4

    def test_equal_seeds_equal_owners(self, name: str) -> None:
        assign = registry.load("partition", name).assign
        assert assign(LABELS, None, 5) == assign(list(LABELS), None, 5)

    def test_depends_on_which_documents_share_a_label_not_on_its_name(
        self, name: str
    ) -> None:
        assign = registry.load("partition", name).assign
        groups = dict(zip("abcd", ("ant", "bee", "cow", "doe"), strict=True))
        one = assign(LABELS, None, 3)
        other = assign([groups[label] for label in LABELS], None, 3)
        pairs = set(zip(one, other, strict=True))
        assert len(pairs) == len(set(one)) == len(set(other))

    def test_as_many_participants_as_asked_for(self, name: str) -> None:
        owners = registry.load("partition", name).assign(LABELS, 4, 1)
        assert len(set(owners)) == 4
