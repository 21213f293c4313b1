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
        ],
    )
    def test_its_options_go_into_federation_json(self, text, name, options):
        choice = founded(aggregator=text).aggregator
        assert (choice.name, choice.options) == (name, options)

    @pytest.mark.parametrize(
        ("text", "wrong"),
        [
            ("trimmed_mean:share=0.3", "it takes fraction (0 to 0.5)"),
            ("mean:fraction=0.3", "the aggregator mean has no option"),
            ("mean:fraction=0.3", "it takes none"),
            ("trimmed_mean:fraction=0.9", "fraction 0.9 is not from 0 to 0.5"),
            ("magic:a=1", "unknown aggregator 'magic': choose one of clipped_mean"),
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
