"""Outsized updates are found by the round's own median."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import clipping
from comigs_mlx.federation.formats.manifest import AggregatorChoice
from comigs_mlx.federation.formats.tensor_source import Arrays

CURRENT = sharing.tensors(generalists=2)
SOURCE = Arrays("", CURRENT)


class TestNorms:
    def round(self, action, aggregator="mean", sizes=(1.0, 1.2, 0.8, 1.1, 50.0)):
        agreed = sharing.manifest(
            CURRENT,
            2,
            norm_action=action,
            norm_factor=2.0,
            aggregator=AggregatorChoice(aggregator),
        )
        sources = []
        for index, size in enumerate(sizes):
            step = sharing.vector(sharing.moved(CURRENT, index)) - sharing.vector(
                CURRENT
            )
            values = {
                name: current + (size / np.linalg.norm(step)) * (moved - current)
                for (name, current), moved in zip(
                    CURRENT.items(), sharing.moved(CURRENT, index).values(), strict=True
                )
            }
            sources.append(Arrays(f"p{index}", values, index))
        return sources, clipping.limit(sources, SOURCE, agreed)

    def test_an_outsized_update_is_shortened_to_the_limit(self):
        sources, found = self.round("clip")
        assert found.clipped == pytest.approx({"p4": 2.2 / 50}, rel=1e-4)
        assert found.refused == {}
        assert found.kept[:4] == sources[:4]
        clipped = found.kept[4]
        assert (clipped.name, clipped.tokens) == ("p4", 4)
        values = {name: clipped.read(name) for name in clipped.names()}
        update = sharing.vector(values) - sharing.vector(CURRENT)
        assert np.linalg.norm(update) == pytest.approx(2.2, rel=1e-4)
        whole = sharing.vector(sources[4].tensors) - sharing.vector(CURRENT)
        assert update @ whole == pytest.approx(2.2 * 50, rel=1e-4)

    def test_or_refused_with_the_reason(self):
        sources, found = self.round("refuse")
        assert found.kept == sources[:4]
        reason = "update 45.5 times as long as the round's median, at most 2"
        assert found.refused == {"p4": reason}

    def test_or_left_alone(self):
        sources, found = self.round("off")
        assert found.kept == sources

    def test_empty_updates_make_nobody_outsized(self):
        sources, found = self.round("refuse", sizes=(0, 0, 0, 0, 1.0, 1.1))
        assert found.kept == sources
        assert self.round("refuse", sizes=(0, 0))[1].refused == {}
        assert self.round("refuse", sizes=())[1].kept == []

    def test_where_ranks_may_differ_products_are_measured_and_shortened(self):
        sources, found = self.round("clip", "svd")
        before = sharing.products(CURRENT)
        values = {name: found.kept[4].read(name) for name in found.kept[4].names()}
        after, whole = sharing.products(values), sharing.products(sources[4].tensors)
        factor = found.clipped["p4"]
        assert 0 < factor < 0.2
        for linear, product in before.items():
            wanted = product + factor * (whole[linear] - product)
            assert np.allclose(after[linear], wanted, atol=1e-4)
        moves = [sharing.products(source.tensors) for source in sources]
        lengths = [
            sum(((move[n] - before[n]) ** 2).sum() for n in before) ** 0.5
            for move in moves
        ]
        assert factor == pytest.approx(2 * np.median(lengths) / lengths[4], rel=1e-6)
