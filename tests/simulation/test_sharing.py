"""What is sent, what everybody receives, and what it costs."""

import dataclasses

import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.aggregation import clipping
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.simulation import method
from comigs_mlx.simulation.options import RoundOptions
from comigs_mlx.simulation.participants import Device
from tests.simulation.setting import NAMES, Watched, people, same, simulation

RANKS = {"ann": Device(rank=2), "bob": Device(rank=3), "cy": Device(rank=4)}


def products(values):
    return {
        name[:-7]: a.astype(np.float64) @ values[name[:-1] + "b"]
        for name, a in values.items()
        if name.endswith("lora_a")
    }


class TestReceived:
    def test_everybody_receives_what_it_makes_for_itself(self):
        order = iter(range(1, 4))

        def personal(contributions, current, loss):
            size = next(order)
            return {n: np.full_like(current.read(n), size) for n in current.names()}

        chosen = dataclasses.replace(method.load("pcl"), personal=personal)
        made = Watched("pcl", chosen=chosen)
        made.round()
        for i, participant in enumerate(made.made.host.participants):
            for array in participant.generalists().values():
                assert (array == 1 + i).all()

    @pytest.mark.parametrize("name", ["hetlora", "comigs-xg1s"])
    def test_what_the_federation_has_is_what_everybody_receives(self, name):
        made = Watched(name).made
        list(made._one_round())
        shared = made.federation.generalists()
        for participant in made.host.participants:
            for tensor, array in participant.generalists().items():
                assert np.array_equal(array, shared[tensor])

    def test_flexlora_averages_products(self):
        watched = Watched("flexlora")
        watched.round()
        sent = [products(values) for values in watched.values.values()]
        found = products(watched.made.host.participants[0].generalists())
        for linear, product in found.items():
            u, s, v = np.linalg.svd(sum(one[linear] for one in sent) / 3)
            wanted = (u[:, :3] * s[:3]) @ v[:3]
            assert np.allclose(product, wanted, atol=1e-6)
            assert np.linalg.norm(wanted) > 1e-4

    def test_in_fedprox_and_fedavg_it_is_the_mean_of_the_factors(self):
        watched = Watched("fedprox")
        watched.round()
        found = watched.made.host.participants[0].generalists()
        for name, array in found.items():
            wanted = (
                sum(v[name].astype(np.float64) for v in watched.values.values()) / 3
            )
            assert np.allclose(array, wanted, atol=1e-6)


class TestAnotherAggregator:
    @pytest.mark.parametrize("name", ["hetlora", "comigs-xg1s", "flexlora"])
    def test_it_takes_the_place_of_the_methods_own(self, name):
        watched = Watched(name, sharing={"aggregator": "median"})
        watched.round()
        found = watched.made.host.participants[2].generalists()
        for tensor, array in found.items():
            sent = np.stack([v[tensor] for v in watched.values.values()])
            assert np.allclose(array, np.median(sent, axis=0), atol=1e-6)

    def test_where_it_could_have_no_effect_it_is_an_error(self):
        with pytest.raises(ConfigError, match="no effect on --method pcl"):
            simulation("pcl", sharing={"aggregator": "median"})

    def test_a_servers_optimiser_goes_on_from_round_to_round(self):
        choice = "fedavgm:momentum=0.5,rate=1"
        watched = Watched("fedavg", rounds=3, sharing={"aggregator": choice})
        theta, m = watched.made.federation.generalists(), {}
        for _ in range(3):
            watched.round()
            for tensor, start in theta.items():
                sent = [v[tensor].astype("d") for v in watched.values.values()]
                delta = np.mean(sent, axis=0) - start
                m[tensor] = 0.5 * m.get(tensor, 0.0) + delta
                theta[tensor] = start + m[tensor]
            for tensor, array in (
                watched.made.host.participants[0].generalists().items()
            ):
                assert np.allclose(array, theta[tensor], atol=1e-5)


class TestOutsized:
    def sent(self, **sharing):
        """One round in which cy sends an update 100 times as long as it made."""
        made = simulation("fedavg", rounds=1, sharing=sharing)
        contribute = made.federation.contribute

        def larger(who, values, current, counters):
            if who == "cy":
                values = {
                    n: current[n] + 100 * (np.asarray(a) - current[n])
                    for n, a in values.items()
                }
            return contribute(who, values, current, counters)

        made.federation.contribute = larger
        start = made.federation.generalists()
        record = list(made._one_round())[-1]
        after = made.federation.generalists()
        step = np.concatenate([np.ravel(after[n] - start[n]) for n in start])
        return record.notes, float(np.linalg.norm(step))

    def test_it_is_shortened_refused_or_taken(self):
        taken, far = self.sent()
        clipped, nearer = self.sent(outsized="clip", norm_factor=2)
        refused, nearest = self.sent(outsized="refuse")
        assert taken == []
        assert nearest < nearer < far / 10
        assert "cy: an outsized update, clipped to 0.0" in clipped[0]
        assert refused[0].startswith("cy: refused: update ")

    def test_a_factor_without_a_rule_is_an_error(self):
        (problem,) = RoundOptions(norm_factor=2.0).problems()
        assert "--norm-factor has no effect with --outsized off" in problem


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
        pool = Watched("fedavg").made.federation
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
        download = watched.made.federation.download_bytes()
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
    losses = {
        (who.name, source.name): made.host.loss(who)(source)
        for who in made.host.participants
        for source in sources
    }
    assert len(set(losses.values())) == 9
    for who in made.host.participants:
        for source in sources:
            who.values = who.with_generalists(source.tensors)
            wanted = made.host.measuring.valid_loss(who, (0.5, 0.5))
            assert losses[who.name, source.name] == pytest.approx(wanted, rel=1e-6)


def test_a_seed_is_repeated_bit_for_bit():
    def run():
        watched = Watched("fedavg")
        watched.round()
        return {(n, k): a for n, v in watched.values.items() for k, a in v.items()}

    assert same(run(), run())
