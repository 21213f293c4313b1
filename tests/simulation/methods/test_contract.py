"""What every method must do, checked for each file of `simulation/methods`."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load

from comigs_mlx import registry
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.model import params
from comigs_mlx.simulation import method, similarity
from comigs_mlx.simulation.method import Meeting
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
            if made.pool is not None:
                made.pool.store.forget = lambda: None
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
        if made.pool is None:
            assert not method.load(name).shared
            return
        names = made.participants[0].generalists().keys()
        private = [
            a
            for values in (before, everything(made))
            for (_, path), a in values.items()
            if params.role_of(path) != "generalist"
        ]
        files = {
            (path, content)
            for commit in made.pool.store.history
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
    apart = dataclasses.replace(chosen, stages=stages, mix=None)
    if not aggregate.load(chosen.aggregator).HANDLES_RANKS:
        shared, _ = finished(name, persons=alone)
        local, _ = finished(name, persons=alone, chosen=apart)
        assert same(everything(shared), everything(local))
        return
    pairs = []
    for variant in (chosen, apart):
        made, _ = finished(name, persons=alone, chosen=variant, rounds=1)
        flat = params.flatten(made.participants[0].values)
        pairs.append(similarity.pairs_of(flat, "generalist", 0))
    for path, (a, b) in pairs[0].items():
        c, d = pairs[1][path]
        assert np.allclose(a @ b, c @ d, atol=1e-6)


MIXES = [name for name in NAMES if method.load(name).mix is not None]


@pytest.mark.parametrize("name", MIXES)
class TestMix:
    CURRENT = {
        f"{folder}x.lora_{part}": np.full(shape, 0.5, np.float32)
        for folder in ("", "generalist-1/")
        for part, shape in (("a", (4, 2)), ("b", (2, 3)))
    }

    def mixed(self, name, contributions):
        sources = [Arrays(who, tensors, 10) for who, tensors in contributions.items()]
        everybody = ("ann", "bob", "cy")
        meeting = Meeting(
            sources=sources,
            current=self.CURRENT,
            ranks=dict.fromkeys(everybody, 2),
            generalists={"ann": 1, "bob": 2, "cy": 2},
            loss=lambda who, tensors: float(tensors["x.lora_a"].mean()),
        )
        return method.load(name).mix(meeting)

    def moved(self, by):
        return {tensor: array + by for tensor, array in self.CURRENT.items()}

    def test_everybody_receives_the_federations_shape(self, name):
        given = {"ann": self.moved(1), "bob": self.moved(2)}
        found = self.mixed(name, given)
        assert found.keys() == {"ann", "bob", "cy"}
        for tensors in found.values():
            assert tensors.keys() == self.CURRENT.keys()
            for tensor, array in tensors.items():
                assert array.shape == self.CURRENT[tensor].shape
                assert array.dtype == np.float32
                assert (array >= 1.5).all() or "generalist-1" in tensor
                assert (array <= 2.5).all()

    def test_equal_contributions_come_back(self, name):
        given = {who: self.moved(1) for who in ("ann", "bob", "cy")}
        for tensors in self.mixed(name, given).values():
            for tensor, array in tensors.items():
                assert np.allclose(array, given["ann"][tensor], atol=1e-6)


def test_trust_is_a_softmax_of_validation_losses():
    given = {"ann": TestMix().moved(0.0), "bob": TestMix().moved(1.0)}
    (mean, *_) = TestMix().mixed("pcl", given).values()
    trust = np.exp([-0.5, -1.5]) / np.exp([-0.5, -1.5]).sum()
    assert np.allclose(mean["x.lora_b"], 0.5 * trust[0] + 1.5 * trust[1])


def test_norms_weigh_contributions():
    given = {"ann": TestMix().moved(0.5), "bob": TestMix().moved(1.5)}
    # All entries 1 or 2: the products' norms are as 1 to 4.
    mean = TestMix().mixed("hetlora", given)["cy"]
    assert np.allclose(mean["x.lora_a"], 0.2 * 1 + 0.8 * 2)


def test_only_holders_of_a_generalist_count():
    given = {"ann": TestMix().moved(4.0), "bob": TestMix().moved(1.0)}
    mean = TestMix().mixed("comigs-xg1s", given)["cy"]
    assert np.allclose(mean["x.lora_a"], 3.0)
    assert np.allclose(mean["generalist-1/x.lora_a"], 1.5)
