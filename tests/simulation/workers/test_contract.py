"""What every worker must do: the same bits, whoever computes, and however many."""

import dataclasses
import functools

import pytest

import tests.tiny as tiny
from comigs_mlx import registry
from comigs_mlx.config import configured, from_dict
from comigs_mlx.simulation.comparison import compare
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.records import Outcome, Planned, RoundDone
from tests.test_simulate import SHORT

WORKERS = [
    pytest.param(name, marks=[pytest.mark.cluster] * (name == "ray"))
    for name in registry.names("worker")
]
PEOPLE = ("ann", "bob", "cy", "dee", "eve")
OPTIONS = {
    **SHORT,
    "method": ["comigs-1g1s", "local"],
    "seeds": [3, 5],
    "rounds": 2,
    "plots": False,
}


@pytest.fixture(scope="module")
def simulated(tiny_folder, tmp_path_factory):
    """(worker, jobs) -> what it told; the folder of each is made once."""
    root = tmp_path_factory.mktemp("workers")
    for i, name in enumerate(PEOPLE):
        tiny.write_text(root / "users" / name, documents=30, seed=i)
    paths = {"users": str(root / "users"), "model": str(tiny_folder())}

    @functools.cache
    def run(worker, jobs):
        if worker == "ray":
            pytest.importorskip("ray")
        own = {"backend": worker, "jobs": jobs, "out": str(root / f"{worker}-{jobs}")}
        config = from_dict(SimulateConfig, {**OPTIONS, **paths, **own})
        return config, list(compare(config, lambda sentence: None))

    return run


def told(events):
    """What is told of rounds and outcomes, without clocks and whose turn it was."""
    found = [event for event in events if isinstance(event, RoundDone | Outcome)]
    timeless = [dataclasses.replace(event, seconds=0.0) for event in found]
    return sorted(timeless, key=lambda e: (e.method, e.seed, getattr(e, "round", 99)))


@pytest.mark.parametrize("worker", WORKERS)
def test_the_bits_are_those_of_one_process(simulated, worker):
    reference = told(simulated("shared", 1)[1])
    assert len(reference) == 2 * 2 * 3
    assert told(simulated(worker, 4)[1]) == reference


@pytest.mark.parametrize("worker", WORKERS)
def test_every_task_is_told_once_and_nothing_is_left_behind(simulated, worker):
    config, events = simulated(worker, 4)
    outcomes = [(e.method, e.seed) for e in events if isinstance(e, Outcome)]
    assert sorted(outcomes) == sorted(
        (method, seed) for method in OPTIONS["method"] for seed in OPTIONS["seeds"]
    )
    hidden = {file.name for file in config.folder.iterdir() if file.name[0] == "."}
    assert hidden == {".lock", ".claims"}
    assert not list((config.folder / "state").iterdir())
    assert (config.folder / "results.md").read_text().count("seed") > 0


@pytest.mark.parametrize("worker", WORKERS)
def test_what_is_done_is_not_done_again(simulated, worker):
    config, events = simulated(worker, 4)
    resumed = dataclasses.replace(config, resume=True)
    planned, *again = compare(resumed, lambda sentence: None)
    assert planned == Planned(0)
    assert {type(event) for event in again} == {Outcome}
    assert told(again) == [e for e in told(events) if isinstance(e, Outcome)]


@pytest.mark.parametrize("worker", WORKERS)
def test_it_says_what_it_is(worker):
    assert len(registry.load("worker", worker).SUMMARY) > 20
    chosen = configured("worker", worker, always=True)
    assert chosen.given == {}
