"""What is sent, what everybody receives, and what it costs."""

import dataclasses

import numpy as np
import pytest

from comigs_mlx.federation.aggregation import clipping
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.simulation import method
from comigs_mlx.simulation.participants import Device
from tests.simulation.setting import NAMES, people, same, simulation

RANKS = {"ann": Device(rank=2), "bob": Device(rank=3), "cy": Device(rank=4)}


class Watched:
    """A simulation whose contributions are written down as they go out."""

    def __init__(self, name, **others):
        self.made = simulation(name, **others)
        self.values, self.sizes, self.counters = {}, {}, {}
        contribute = self.made.pool.contribute

        def noted(who, values, current, counters):
            self.values[who] = {n: np.array(a) for n, a in values.items()}
            self.counters[who] = counters
            self.sizes[who] = contribute(who, values, current, counters)
            return self.sizes[who]

        self.made.pool.contribute = noted

    def round(self):
        return list(self.made._one_round())[-1]


def products(values):
    return {
        name[:-7]: a.astype(np.float64) @ values[name[:-1] + "b"]
        for name, a in values.items()
        if name.endswith("lora_a")
    }


class TestReceived:
    def test_everybody_receives_the_methods_own_mix(self):
        def mix(meeting):
            return {
                name: {n: np.full_like(a, 1 + i) for n, a in meeting.current.items()}
                for i, name in enumerate(meeting.ranks)
            }

        chosen = dataclasses.replace(method.load("pcl"), mix=mix)
        made = Watched("pcl", chosen=chosen)
        made.round()
        for i, participant in enumerate(made.made.participants):
            for array in participant.generalists().values():
                assert (array == 1 + i).all()

    def test_flexlora_averages_products(self):
        watched = Watched("flexlora")
        watched.round()
        sent = [products(values) for values in watched.values.values()]
        found = products(watched.made.participants[0].generalists())
        for linear, product in found.items():
            u, s, v = np.linalg.svd(sum(one[linear] for one in sent) / 3)
            wanted = (u[:, :3] * s[:3]) @ v[:3]
            assert np.allclose(product, wanted, atol=1e-6)
            assert np.linalg.norm(wanted) > 1e-4

    def test_in_fedprox_and_fedavg_it_is_the_mean_of_the_factors(self):
        watched = Watched("fedprox")
        watched.round()
        found = watched.made.participants[0].generalists()
        for name, array in found.items():
            wanted = (
                sum(v[name].astype(np.float64) for v in watched.values.values()) / 3
            )
            assert np.allclose(array, wanted, atol=1e-6)


class TestSent:
    def test_where_ranks_may_differ_everybody_sends_its_own(self):
        watched = Watched("flexlora", persons=people(devices=RANKS))
        watched.round()
        for name, values in watched.values.items():
            ranks = {
                a.shape[1]
                for n, a in values.items()
                if n.endswith("mlp.up_proj.lora_a")
            }
            assert ranks == {RANKS[name].rank}

    def test_hetlora_fills_up_with_zeros(self):
        watched = Watched("hetlora", persons=people(devices=RANKS))
        watched.round()
        for n, array in watched.values["ann"].items():
            if n.endswith("mlp.up_proj.lora_a"):
                assert array.shape[1] == 4
                assert not array[:, 2:].any()
                assert array[:, :2].any()

    @pytest.mark.parametrize("name", ["fedavg", "comigs-1g1s"])
    def test_the_tokens_are_those_that_experts_learnt_from(self, name):
        watched = Watched(name)
        watched.round()
        for counters in watched.counters.values():
            assert counters == {"steps": 2, "tokens": 2 * 2 * 8}

    def test_no_update_of_a_simulation_is_clipped(self):
        pool = Watched("fedavg").made.pool
        current = pool.generalists()
        group = [
            Arrays(name, {n: a + size for n, a in current.items()})
            for name, size in zip(NAMES, (1, 1, 1000), strict=True)
        ]
        found = clipping.limit(group, Arrays("", current), pool.manifest)
        assert found.kept == group


class TestBytes:
    def test_everybody_sends_one_contribution_and_downloads_one_generalist(self):
        watched = Watched("fedavg")
        record = watched.round()
        download = watched.made.pool.download_bytes()
        assert record.bytes == sum(watched.sizes.values()) + 3 * download
        assert watched.made.bytes == record.bytes

    def test_a_mix_of_ones_own_needs_everybodys_contribution(self):
        watched = Watched("pcl")
        record = watched.round()
        assert record.bytes == 3 * sum(watched.sizes.values())


def test_pcl_judges_everybodys_generalists_on_ones_own_validation_text():
    watched = Watched("pcl")
    watched.round()
    made = watched.made
    sources = [Arrays(name, values) for name, values in watched.values.items()]
    meeting = made.sharing._meeting(sources, made.pool.generalists())
    losses = {
        (who.name, source.name): meeting.loss(who.name, source.tensors)
        for who in made.participants
        for source in sources
    }
    assert len(set(losses.values())) == 9
    for who in made.participants:
        for source in sources:
            values = who.with_generalists(source.tensors)
            wanted = made.measuring.valid_loss(who, (0.5, 0.5), values)
            assert losses[who.name, source.name] == pytest.approx(wanted, rel=1e-6)


def test_a_seed_is_repeated_bit_for_bit():
    def run():
        watched = Watched("fedavg")
        watched.round()
        return {(n, k): a for n, v in watched.values.items() for k, a in v.items()}

    assert same(run(), run())
