"""What every method must do, checked for each file of `simulation/methods`."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load

from comigs_mlx import registry
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.model import params
from comigs_mlx.simulation import method, similarity
from tests.simulation.setting import (
    everything,
    finished,
    people,
    same,
    simulation,
)

NAMES = method.names()


def test_the_papers_methods_are_there():
    assert {"pretrained", "centralized", "local", "fedavg", "pcl", "flexlora"} <= {
        *NAMES
    }
    assert {"hetlora", "ffa-lora", "fdlora", "pfedmoe", "fedprox"} <= {*NAMES}
    assert {"comigs-1g1s", "comigs-2g", "comigs-2s", "comigs-1gxs"} <= {*NAMES}
    assert "comigs-xg1s" in NAMES


@pytest.fixture(scope="module")
def run():
    """Name -> its values before, its simulation after, what it told; run once.

    The federation keeps its whole history.
    """
    done = {}

    def of(name):
        if name not in done:
            made = simulation(name)
            if made.federation is not None:
                made.federation.store.forget = lambda: None
            before = everything(made)
            done[name] = (before, made, list(made.run()))
        return done[name]

    return of


@pytest.mark.parametrize("name", NAMES)
class TestMethod:
    def test_it_opens_with_paper_equations_and_command(self, name):
        text = registry.load("method", name.replace("-", "_")).__doc__
        first, *rest = text.splitlines()
        assert 10 < len(first) < 88
        assert rest[0] == ""
        assert f"--method {name}" in text
        assert text.index("Command:") < text.index(f"--method {name}")
        if method.load(name).trained:
            assert text.split("\n\n")[1].startswith("    ")  # the equations
            assert "Differs" in text or name in ("local", "centralized", "comigs-2s")

    def test_its_values_fit_together(self, name):
        assert list(method.load(name).problems()) == []
        assert method.load(name.upper()) is method.load(name)

    def test_every_role_learns_or_is_known_not_to(self, name, run):
        """What moves is what the method's data says, and nothing else."""
        before, made, _ = run(name)
        chosen = made.method
        tasks = [stage.task for stage in chosen.stages] * chosen.trained
        routed = chosen.router != "none" and chosen.trained
        moved = {k for k, a in everything(made).items() if (a != before[k]).any()}
        expected = {
            (who, path)
            for who, path in before
            if any(task.trains(path) for task in tasks)
            or (routed and params.role_of(path) == "router")
        }
        assert moved == expected
        roles = {params.role_of(path) for _, path in before} - {"router"}
        if chosen.trained:
            assert roles == {params.role_of(p) for _, p in expected} - {"router"}
            assert routed == (chosen.speaks == ("auto",))

    def test_only_generalists_are_ever_published(self, name, run):
        """Every file of every state of the federation holds them and counters only."""
        before, made, _ = run(name)
        if made.federation is None:
            assert not method.load(name).shared
            return
        names = made.host.participants[0].generalists().keys()
        private = [
            a
            for values in (before, everything(made))
            for (_, path), a in values.items()
            if params.role_of(path) != "generalist"
        ]
        files = {
            (path, content)
            for commit in made.federation.store.history
            for path, content in commit.files.items()
        }
        tensors = [(p, c) for p, c in files if p.endswith(".safetensors")]
        assert any(path.startswith("contributions/") for path, _ in tensors)
        for path, content in tensors:
            folder = path.split("/")[-2] + "/" if "generalist-" in path else ""
            for tensor, array in load(content).items():
                assert folder + tensor in names
                assert not any(
                    array.shape == p.shape and (array == p).all() for p in private
                )
        for path, _ in files:
            assert "specialist" not in path
            assert "router" not in path
        for path, content in files:
            if path.endswith(".json"):
                assert b"router" not in content
                assert b"specialist" not in content

    def test_equal_seeds_equal_bits_and_others_other_ones(self, name, run):
        before, made, _ = run(name)
        assert same(everything(finished(name)[0]), everything(made))
        assert not same(everything(simulation(name, seed=1)), before)

    def test_what_it_tells(self, name, run):
        _, made, events = run(name)
        outcome = made.outcome()
        assert outcome.loss.keys() == {"ann", "bob", "cy"}
        assert all(0 < loss < 20 for loss in outcome.loss.values())
        assert (outcome.bytes_per_round > 0) == made.method.shared
        assert len(events) > 0 or not made.method.trained
        trained = set(outcome.trainable.values())
        assert (trained == {0}) == (not made.method.trained)


SHARED = [name for name in NAMES if method.load(name).shared]


@pytest.mark.parametrize("name", SHARED)
def test_one_participant_alone_is_local_training(name):
    """An average of one changes no bit; a factorisation keeps the product."""
    alone, chosen = people(("ann",)), method.load(name)
    stages = tuple(dataclasses.replace(s, shared=False) for s in chosen.stages)
    apart = dataclasses.replace(chosen, stages=stages, personal=None)
    if not aggregate.load(chosen.aggregator).HANDLES_RANKS:
        shared, _ = finished(name, persons=alone)
        local, _ = finished(name, persons=alone, chosen=apart)
        assert same(everything(shared), everything(local))
        return
    pairs = []
    for variant in (chosen, apart):
        made, _ = finished(name, persons=alone, chosen=variant, rounds=1)
        flat = params.flatten(made.host.participants[0].values)
        pairs.append(similarity.pairs_of(flat, "generalist", 0))
    for path, (a, b) in pairs[0].items():
        c, d = pairs[1][path]
        assert np.allclose(a @ b, c @ d, atol=1e-6)
