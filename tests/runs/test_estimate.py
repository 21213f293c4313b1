"""Time by arithmetic from earlier runs."""

import json

import pytest

from comigs_mlx.config import dump_yaml, from_dict
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs.estimate import seconds, tokens

OPTIONS = {
    "model": "demo",
    "steps": 60,
    "router_every": 30,
    "router_steps": 10,
    "batch_size": 4,
    "seq_len": 100,
}


def config(**options):
    return from_dict(TrainConfig, {**OPTIONS, **options})


@pytest.fixture
def run(tmp_path):
    def write(name, speeds, **options):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(dump_yaml(config(**options)))
        lines = [
            json.dumps({"step": i, "tokens_per_second": speed})
            for i, speed in enumerate(speeds)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
        return folder

    return write


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 60 + 2 * 10),
        ({"grad_accumulation": 3}, 3 * 60 + 2 * 10),
        ({"router": "none"}, 60),
        ({"router": "joint"}, 60),
        ({"steps": 29}, 29),
    ],
)
def test_tokens_of_both_levels(options, steps):
    assert tokens(config(**options)) == steps * 4 * 100


def test_the_median_of_what_was_measured(run):
    runs = [run("a", [10, 100, 300]), run("b", [5, 400]), run("c", [1000])]
    # medians without the first report: 200, 400, and the only one, 1000
    found, known = seconds(config(), runs)
    assert found == pytest.approx(80 * 400 / 400)
    assert known == "400 tokens/s in 3 earlier runs of demo"


def test_only_runs_alike_count(run, tmp_path):
    runs = [
        run("other", [9, 9], model="another"),
        run("slow", [9, 9], grad_checkpoint=True),
        run("new", []),
        run("alike", [9, 50]),
        tmp_path / "nothing",
    ]
    found, known = seconds(config(), runs)
    assert found == pytest.approx(80 * 400 / 50)
    assert known == "50 tokens/s in 1 earlier run of demo"


def test_without_a_measurement_nothing_is_guessed(run):
    found, known = seconds(config(), [run("other", [9], model="another")])
    assert found is None
    assert known == "no run of demo has been measured on this machine yet"
