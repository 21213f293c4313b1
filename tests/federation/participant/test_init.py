"""What `sync init` makes of its options."""

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.participant import init
from comigs_mlx.federation.participant.options import InitConfig
from comigs_mlx.federation.participant.pull_push import Origin

CURRENT = sharing.tensors()
AGREED = sharing.manifest(CURRENT)
ORIGIN = Origin(AGREED.base_model, AGREED.experts, CURRENT)


def founded(**options):
    config = InitConfig(federation="pool", model="demo", **options)
    assert list(config.problems()) == []
    return Manifest.from_json(init.manifest(config, ORIGIN).to_json())


class TestAggregator:
    @pytest.mark.parametrize(
        ("text", "name", "options"),
        [
            ("mean", "mean", {}),
            ("trimmed_mean:fraction=0.3", "trimmed_mean", {"fraction": 0.3}),
            ("multi_krum:fraction=0.5", "multi_krum", {"fraction": 0.5}),
            ("clipped_mean:factor=2", "clipped_mean", {"factor": 2}),
            ("trimmed_mean:share=0.2", "trimmed_mean", {"fraction": 0.2}),
            ("multi_krum:share=0.2", "multi_krum", {"fraction": 0.2}),
            ("fedadam:rate=0.1,tau=0.01", "fedadam", {"rate": 0.1, "tau": 0.01}),
        ],
    )
    def test_its_options_go_into_federation_json(self, text, name, options):
        choice = founded(aggregator=text).aggregator
        assert (choice.name, choice.options) == (name, options)

    @pytest.mark.parametrize(
        ("text", "wrong"),
        [
            ("trimmed_mean:tail=0.3", "it takes fraction (0 to 0.5)"),
            ("mean:fraction=0.3", "the aggregator mean has no option"),
            ("mean:fraction=0.3", "it takes none"),
            ("trimmed_mean:fraction=0.9", "fraction 0.9 is not from 0 to 0.5"),
            ("magic:a=1", "unknown aggregator 'magic': choose one of clipped_mean"),
            ("trimmed_mean:share=0.3,fraction=0.2", "under both of its names"),
            ("median:", "write NAME, or NAME:key=value"),
        ],
    )
    def test_what_it_cannot_take_is_refused_with_what_it_can(self, text, wrong):
        config = InitConfig(federation="pool", model="demo", aggregator=text)
        (problem,) = config.problems()
        assert problem.startswith("--aggregator")
        assert wrong in problem

    def test_a_larger_fraction_withstands_three_of_ten(self):
        honest = [sharing.moved(CURRENT, 1) for _ in range(7)]
        hostile = [{n: -50 * a for n, a in CURRENT.items()}] * 3
        group = [init.Arrays(f"p{i}", one) for i, one in enumerate(honest + hostile)]
        choice = founded(aggregator="trimmed_mean:fraction=0.3").aggregator
        start = init.Arrays("", CURRENT)
        made = aggregate.aggregate(choice.name, group, start, choice.options)
        for name, values in made.shared:
            assert values == pytest.approx(honest[0][name], rel=1e-6)


class TestOutsized:
    @pytest.mark.parametrize("action", ["clip", "refuse", "off"])
    def test_what_happens_to_outsized_updates_goes_into_federation_json(self, action):
        made = founded(outsized=action)
        assert (made.norm_action, made.norm_factor) == (action, 3.0)
        if action != "off":
            made = founded(outsized=action, norm_factor=1.5)
            assert (made.norm_action, made.norm_factor) == (action, 1.5)

    def test_without_flags_it_is_as_before(self):
        made = founded()
        assert (made.norm_action, made.norm_factor) == ("clip", 3.0)

    @pytest.mark.parametrize(
        ("options", "wrong"),
        [
            ({"norm_factor": 0.5}, "--norm-factor 0.5 is not from 1 to 1000000"),
            ({"norm_factor": 1e7}, "--norm-factor 1e+07 is not from 1 to 1000000"),
            ({"norm_factor": float("nan")}, "--norm-factor nan is not from 1"),
            ({"norm_factor": 2.0, "outsized": "off"}, "no effect with --outsized off"),
        ],
    )
    def test_what_cannot_work_is_refused(self, options, wrong):
        config = InitConfig(federation="pool", model="demo", **options)
        (problem,) = config.problems()
        assert wrong in problem
