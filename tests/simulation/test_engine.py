"""Rounds: the same training as alone, the average of arithmetic, who takes part."""

import dataclasses

import numpy as np
import pytest

from comigs_mlx.data.batches import training_batches
from comigs_mlx.errors import ConfigError
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import SavingOptions
from comigs_mlx.simulation import expert_shapes
from comigs_mlx.simulation.layouts import sharing_arrays
from comigs_mlx.simulation.participants import Device, pooled
from comigs_mlx.training.trainer import Trainer
from tests.simulation.setting import (
    NAMES,
    config,
    everything,
    finished,
    layouts,
    people,
    same,
    simulation,
)


def test_a_participant_trains_as_a_trainer_of_its_own():
    """Bit by bit: the reference is `Trainer` on a mixture nobody else uses."""
    made, _ = finished("comigs-2s", rounds=3)
    start = simulation("comigs-2s", rounds=3).host.participants[1]
    mixture = Mixture(sharing_arrays(layouts().base.model), start.options, start.seed)
    mixture.model.update(start.values)
    given, learning = start.data, config().learning
    sources = [
        training_batches(
            content, seq_len=8, batch_size=2, seed=2 * start.seed + i, packing=False
        )[0]
        for i, content in enumerate((given.train, given.valid))
    ]
    options = learning.training(3 * 2, 0)
    list(Trainer(mixture, *sources, [], options, SavingOptions()).run())
    expected = params.flatten(params.select(mixture.model, params.ROLES))
    found = params.flatten(made.host.participants[1].values)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert np.array_equal(np.array(found[path]), np.array(array)), path


@pytest.fixture(scope="module")
def fedavg():
    """One round of it, and what it told."""
    return finished("fedavg", rounds=1)


def test_after_a_round_everybody_has_the_mean_of_all(fedavg):
    local, _ = finished("local", rounds=1)
    shared, (*_, done) = fedavg
    alone = [p.generalists() for p in local.host.participants]
    for tensor in alone[0]:
        mean = np.mean([a[tensor].astype(np.float64) for a in alone], axis=0)
        for participant in shared.host.participants:
            found = participant.generalists()[tensor]
            assert np.abs(found - mean).max() <= np.spacing(np.float32(1)) * (
                np.abs(mean).max()
            )
    assert done.inexactness > 0
    assert done.test_loss.keys() == set(NAMES)


def test_with_a_frozen_everywhere_the_average_is_exact():
    _, events = finished("ffa-lora", rounds=1)
    assert events[-1].inexactness == pytest.approx(0.0, abs=1e-6)


def test_pooled_text_is_everybodys_and_a_step_sees_as_many_tokens():
    everybody = pooled(people())
    parts = [p.train.tokens for p in people()]
    assert np.array_equal(everybody.train.tokens, np.concatenate(parts))
    assert len(set(everybody.train.documents.tolist())) == 3 * 6
    made, _ = finished("centralized")
    assert [p.name for p in made.host.participants] == ["everybody"]
    assert made.outcome().loss.keys() == set(NAMES)
    trainer, _ = next(
        found
        for key, found in layouts()._trainers.items()
        if key[1].grad_accumulation == 3
    )
    assert trainer.options.steps == 4


class TestParticipation:
    def test_a_share_of_all_is_drawn_anew_each_round(self):
        made = simulation("fedavg", rounds=40, sharing={"participation": 0.6})
        drawn = [made.active(round) for round in range(40)]
        assert {len(names) for names in drawn} == {2}
        assert len({tuple(names) for names in drawn}) == 3
        other = simulation("local", rounds=40, sharing={"participation": 0.6})
        assert [other.active(round) for round in range(40)] == drawn
        assert made.steps_left == 40 * 2 * 2

    def test_who_is_away_neither_trains_nor_counts(self):
        made = simulation("fedavg", sharing={"participation": 0.6})
        before = {p.name: p.progress for p in made.host.participants}
        (first,) = [e for e in made._one_round() if hasattr(e, "active")]
        assert len(first.active) == 2
        for participant in made.host.participants:
            trained = participant.name in first.active
            assert bool(participant.progress) == trained
            assert (participant.name in first.train_loss) == trained
        assert before.keys() == set(NAMES)
        tensors = [p.generalists() for p in made.host.participants]
        for tensor in tensors[0]:
            assert all(np.array_equal(tensors[0][tensor], t[tensor]) for t in tensors)

    def test_a_lost_contribution_does_not_count(self):
        """With all lost, nobody moves: the round's own training is forgotten."""
        made = simulation("fedavg", rounds=3)
        made.lost = lambda round: list(NAMES) if round != 1 else ["bob"]
        before = made.host.participants[0].generalists()
        rounds = [event for event in made.run() if hasattr(event, "active")]
        assert [r.inexactness is None for r in rounds] == [True, False, True]
        assert rounds[0].bytes < rounds[1].bytes
        after = made.host.participants[0].generalists()
        assert not all(np.array_equal(before[t], after[t]) for t in before)
        assert made.federation.generalists().keys() == after.keys()

    def test_losses_come_as_often_as_asked(self):
        made = simulation("fedavg", rounds=2, sharing={"dropout": 0.25})
        lost = sum(len(made.lost(round)) for round in range(400))
        assert 0.2 < lost / 1200 < 0.3


class TestDevices:
    def test_numbers_of_specialists_may_differ(self):
        devices = {"ann": Device(specialists=1), "bob": Device(specialists=3)}
        persons = people(devices=devices)
        made, events = finished("comigs-1gxs", persons=persons, rounds=1)
        counts = [p.options.specialists for p in made.host.participants]
        assert counts == [1, 3, 1]
        assert [p.options.top_k for p in made.host.participants] == [2, 2, 2]
        assert len(events[-1].layer_share["bob"][0]) == 4
        tensors = [p.generalists() for p in made.host.participants]
        assert all(np.array_equal(tensors[0][t], tensors[1][t]) for t in tensors[0])

    def test_ranks_may_differ_where_the_method_can_handle_it(self):
        devices = {"ann": Device(rank=1), "bob": Device(rank=5)}
        persons = people(devices=devices)
        for name in ("flexlora", "hetlora", "local"):
            made, _ = finished(name, persons=persons, rounds=1)
            scales = {p.options.scale for p in made.host.participants}
            assert max(scales) == pytest.approx(min(scales))
            tensors = [p.generalists() for p in made.host.participants]
            for tensor, array in tensors[1].items():
                rank = tensors[0][tensor].shape[tensor.endswith("a")]
                assert rank == 1
                if name == "flexlora":
                    cut = array[:, :1] if tensor.endswith("a") else array[:1]
                    assert np.array_equal(tensors[0][tensor], cut)
        with pytest.raises(ConfigError) as error:
            simulation("fedavg", persons=persons)
        assert str(error.value) == (
            "--method fedavg cannot share experts of ranks 1, 3, 5: choose flexlora, "
            "hetlora, or a method that shares nothing"
        )

    def test_a_rank_that_shrank_is_given_up_with_its_moments(self):
        made, _ = finished("hetlora", rounds=1)
        participant = made.host.participants[0]
        start = params.flatten(participant.values)
        bigger = {
            path: 2 * a if path.endswith("lora_b") else a for path, a in start.items()
        }
        before = participant.options
        expert_shapes.prune(participant, start, 0.99)  # nothing shrank
        assert participant.options == before
        expert_shapes.prune(participant, bigger, 0.99)
        assert participant.options.rank == before.rank - 1
        assert participant.options.scale == pytest.approx(before.scale)
        for path, array in params.flatten(participant.values).items():
            if path.endswith("lora_a"):
                assert array.shape[-1] == before.rank - 1
        moments = params.flatten(participant.progress[0].optimizers[0])
        name = next(k for k in moments if k.endswith("mlp.up_proj.generalist.lora_b.m"))
        assert moments[name].shape[-2] == before.rank - 1

    def test_generalists_may_differ_for_xg1s(self):
        devices = {"bob": Device(generalists=2)}
        persons = people(devices=devices)
        made, _ = finished("comigs-xg1s", persons=persons, rounds=1)
        ann, bob = (p.generalists() for p in made.host.participants[:2])
        assert {t for t in bob if t.startswith("generalist-1/")}
        assert not {t for t in ann if t.startswith("generalist-1/")}
        for tensor, array in ann.items():
            assert np.array_equal(array, bob[tensor])


class TestOverrides:
    def test_how_routers_learn_can_be_chosen_where_there_are_any(self):
        made = simulation("comigs-1g1s", learning={"router": "joint"})
        assert made.method.router == "joint"
        made = simulation("fedavg", learning={"router": "joint"})
        assert made.method.router == "none"

    def test_the_split_of_the_routers_matters(self):
        usual, _ = finished("comigs-1g1s", rounds=1)
        split = {"router_split": "train"}
        on_train, _ = finished("comigs-1g1s", rounds=1, learning=split)
        assert not same(everything(usual), everything(on_train))

    def test_another_aggregator(self):
        made, events = finished("fedavg", rounds=1, sharing={"aggregator": "median"})
        assert made.federation.manifest.aggregator.name == "median"
        assert events[-1].bytes > 0


@pytest.mark.parametrize("encoding", ["fp16", "int8"])
def test_encodings_cost_fewer_bytes_and_come_close(fedavg, encoding):
    exact, (*_, first) = fedavg
    made, (*_, done) = finished("fedavg", rounds=1, sharing={"encoding": encoding})
    assert done.bytes < first.bytes
    assert made.federation.residuals.keys() == (
        set(NAMES) if encoding == "int8" else set()
    )
    a, b = everything(exact), everything(made)
    assert not same(a, b)
    assert max(np.abs(a[k] - b[k]).max() for k in a) < 2e-2


def test_methods_share_beginning_and_text():
    one, other = simulation("local"), simulation("fedavg")
    assert same(everything(one), everything(other))
    seeds = [[p.seed for p in made.host.participants] for made in (one, other)]
    assert seeds[0] == seeds[1]
    assert dataclasses.replace(one.config) == other.config
