"""Each method's own rule, computed apart from it."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model import params
from comigs_mlx.simulation import expert_shapes, method
from comigs_mlx.simulation.methods.fedprox import MU, proximal
from comigs_mlx.simulation.methods.hetlora import GAMMA, LAMBDA, shrinking
from tests.simulation.setting import everything, finished, people, simulation, stream


def roles(made):
    return {params.role_of(path) for _, path in everything(made)}


def distance(penalty):
    """How far everybody strays in four steps, alone, under a penalty."""
    chosen = method.load("fedprox")
    task = dataclasses.replace(chosen.stages[0].task, penalty=penalty)
    stage = dataclasses.replace(chosen.stages[0], task=task, shared=False)
    chosen = dataclasses.replace(chosen, stages=(stage,))
    made = simulation(
        "fedprox", chosen=chosen, rounds=1, sharing={"rounds": 1, "local_steps": 4}
    )
    before = everything(made)
    list(made.run())
    after = everything(made)
    return sum(float(((after[k] - before[k]) ** 2).sum()) for k in before)


class TestFedProx:
    def test_the_penalty_is_half_mu_times_the_squared_distance(self):
        random = np.random.default_rng(0)
        one = {n: random.normal(size=(3, 2)).astype("f") for n in "ab"}
        other = {n: random.normal(size=(3, 2)).astype("f") for n in "ab"}
        wanted = MU / 2 * sum(((one[n] - other[n]) ** 2).sum() for n in one)
        wrapped = [{n: mx.array(a) for n, a in each.items()} for each in (one, other)]
        assert proximal(*wrapped).item() == pytest.approx(wanted, rel=1e-5)
        assert wanted > 0
        assert method.load("fedprox").stages[0].task.penalty is proximal

    def test_what_is_penalised_stays_nearer(self):
        strong = lambda values, anchor: 1e5 * proximal(values, anchor)
        assert distance(strong) < 0.8 * distance(None)


class TestHetLora:
    def test_the_penalty_is_the_size_of_the_last_ranks(self):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(5, 4)), random.normal(size=(4, 6))
        values = {"x.lora_a": mx.array(a), "x.lora_b": mx.array(b)}
        wanted = LAMBDA * np.linalg.norm(a[:, 3:]) * np.linalg.norm(b[3:])
        assert GAMMA == 0.99  # 3 of 4
        assert shrinking(values, {}).item() == pytest.approx(wanted, rel=1e-5)

    @pytest.mark.parametrize(("factor", "rank"), [(0.5, 2), (1.5, 3)])
    def test_the_last_rank_is_given_up_where_it_shrank(self, factor, rank):
        made = simulation("hetlora")
        participant = made.host.participants[0]
        flat = params.flatten(participant.values)
        flat = {p: a + 1.0 for p, a in flat.items()}  # lora_b begins as zeros
        after = {
            p: mx.concatenate([a[..., :2, :], factor * a[..., 2:, :]], axis=-2)
            if p.endswith("lora_b")
            else a
            for p, a in flat.items()
        }
        participant.values = params.unflatten(after)
        expert_shapes.prune(participant, flat, made.method.prune)
        assert participant.options.rank == rank


class TestFdLora:
    def test_the_personal_one_learns_first_and_alone_then_the_global_one(self):
        made = simulation("fdlora", rounds=4)
        moved, states = [], [everything(made)]
        for _ in range(4):
            record = list(made._one_round())[-1]
            states.append(everything(made))
            changed = {
                params.role_of(path)
                for (who, path), a in states[-1].items()
                if (a != states[-2][who, path]).any()
            }
            moved.append((changed, record.bytes > 0))
        assert moved[0] == ({"specialist"}, False)
        for changed, exchanged in moved[1:]:
            assert "generalist" in changed
            assert "specialist" not in changed
            assert exchanged


class TestComigs:
    def test_2g_has_two_generalists_that_all_share_and_a_router_of_ones_own(self):
        made, _ = finished("comigs-2g")
        assert roles(made) == {"generalist", "router"}
        values = everything(made)
        assert {p.options.generalists for p in made.host.participants} == {2}
        for (who, path), array in values.items():
            if who != "ann":
                alike = np.array_equal(array, values["ann", path])
                assert alike == (params.role_of(path) == "generalist")

    @pytest.mark.parametrize(
        ("name", "reads_valid"), [("pfedmoe", False), ("comigs-1g1s", True)]
    )
    def test_which_text_the_router_learns_from(self, name, reads_valid):
        other = [
            dataclasses.replace(person, valid=stream([9, 9], 60, 12))
            for person in people()
        ]
        one, _ = finished(name, rounds=1)
        two, _ = finished(name, rounds=1, persons=other)
        one, two = everything(one), everything(two)
        routers = [k for k in one if params.role_of(k[1]) == "router"]
        assert routers
        differ = any((one[k] != two[k]).any() for k in routers)
        assert differ == reads_valid
