"""One contract over all optimisers, and the learning rate of every step."""

import typing

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.lifecycle import forgetting, reshaping
from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions, TrainConfig, TrainingOptions, train_config
from comigs_mlx.training import checkpoint, optimisers, trainer_state
from comigs_mlx.training.level import Level, router_group
from comigs_mlx.training.optimisers import Schedule, expert_schedule
from comigs_mlx.training.peak_memory import MOMENTS
from comigs_mlx.training.records import Boundary
from tests.training.setting import (
    arrays,
    batch_of,
    changed,
    mixture_of,
    put,
    same,
    trainer_of,
    values,
)

HINTS = typing.get_type_hints(TrainingOptions)
NAMES = typing.get_args(HINTS["optimizer"])
KINDS = typing.get_args(HINTS["lr_schedule"])


def bits(trainer):
    groups = [group for level in trainer.levels for group in level.groups]
    return [values(trainer.mixture), *(arrays(g.optimizer.state) for g in groups)]


RUN = {"warmup": 3, "lr_schedule": "linear", "steps": 5, "learning_rate": 0.004}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module", params=NAMES)
def trained(request, tmp_path_factory):
    """A trainer at its end, its save within the warm-up, traces and rates."""
    folder, traced, real = tmp_path_factory.mktemp("save"), [], Level._apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Level, "_apply", lambda *a, **k: (traced.append(1), real(*a, **k))[1]
        )
        trainer, rates = trainer_of(optimizer=request.param, **RUN), []
        for event in trainer.run():
            if isinstance(event, Boundary) and event.step == 2:
                checkpoint.save(trainer, folder, {}, 1)
            levels = [level.groups[0].optimizer for level in trainer.levels]
            rates.append([o.learning_rate.item() for o in levels])
    return trainer, checkpoint.latest(folder), bits(trainer), traced, rates


class TestInTraining:
    def test_resumed_is_uninterrupted_bit_for_bit(self, trained):
        """Saved within the warm-up of the experts, after a phase of the routers."""
        trainer, save, whole, *_ = trained
        resumed = trainer_of(optimizer=trainer.options.optimizer, **RUN)
        checkpoint.restore(resumed, save, {})
        middle = bits(resumed)
        for _ in resumed.run():
            pass
        assert all(map(same, bits(resumed), whole))
        assert not any(map(same, middle, whole))

    def test_is_compiled_once_for_all_learning_rates(self, trained):
        """The experts' rise and fall; the routers' rise by their own steps and stay."""
        trainer, *_, traced, rates = trained
        assert len(traced) == len(trainer.levels) == 2
        experts, routers = (
            [*dict.fromkeys(level)] for level in zip(*rates, strict=True)
        )
        assert experts == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.0022])
        assert routers[1:] == pytest.approx([0.002, 0.003, 0.004])

    def test_a_level_changes_its_own_alone(self, trained):
        trainer, *_ = trained
        start = values(trainer.mixture)
        experts = values(trainer.mixture, *params.EXPERTS).keys()
        trainer.experts.step([batch_of(0)])
        middle = values(trainer.mixture)
        trainer.routers.step([batch_of(1)])
        end = values(trainer.mixture)
        put(trainer.mixture, start)
        assert changed(start, middle) == experts
        assert changed(middle, end) == start.keys() - experts


class TestContract:
    def test_an_expert_learns_the_same_whatever_is_beside_it(self, name):
        """Two experts of one stack; the gradients of one are large, and grow."""
        rng = np.random.default_rng(0)
        shape = (2, 6, 3)
        parameter = mx.array(rng.normal(size=shape).astype(np.float32))
        sizes = np.array([[1.0, 1e3], [1.0, 1e5]])[..., None, None]
        slopes = sizes * rng.normal(size=(2, *shape))
        slopes = mx.array(slopes.astype(np.float32))
        found = descended(name, parameter, slopes)
        for expert in (0, 1):
            alone = slice(expert, expert + 1)
            expected = descended(name, parameter[alone], slopes[:, alone])
            assert np.allclose(found[alone], expected, rtol=1e-5, atol=1e-7)
            assert not np.allclose(found[alone], parameter[alone], atol=1e-3)

    def test_without_a_gradient_only_the_decay_is_left(self, name):
        parameter = mx.ones((2, 6, 3))
        found = descended(name, parameter, mx.zeros((1, 2, 6, 3)), weight_decay=0.5)
        left = 1.0 if name == "adam" else 1 - 0.1 * 0.5
        assert np.allclose(found, left)

    def test_the_estimate_knows_its_size(self, name):
        """What is kept of a parameter, in parameters; MLX's own state is the truth."""
        optimizer = optimisers.make(TrainingOptions(optimizer=name), 0.1)
        parameter = mx.zeros((2, 64, 8))
        optimizer.init({"w": parameter})
        kept = sum(a.nbytes for a in params.flatten(optimizer.state["w"]).values())
        assert MOMENTS[name] - 1 < kept / parameter.nbytes <= MOMENTS[name]


def descended(name, parameter, slopes, weight_decay=0.0):
    """A parameter after one step with each gradient, at a rate of 0.1."""
    options = TrainingOptions(optimizer=name, weight_decay=weight_decay)
    optimizer = optimisers.make(options, 0.1)
    tree = {"w": parameter}
    optimizer.init(tree)
    for slope in slopes:
        tree = optimizer.apply_gradients({"w": slope}, tree)
    return np.array(tree["w"])


class TestReferences:
    def start(self):
        rng = np.random.default_rng(1)
        drawn = rng.normal(size=(3, 4, 5)).astype(np.float32)
        return drawn[0], drawn[1:]

    def test_adamw(self):
        w, slopes = self.start()
        found = descended("adamw", mx.array(w), mx.array(slopes), weight_decay=0.3)
        w, m, v = w.astype(np.float64), 0.0, 0.0
        for t, g in enumerate(slopes, 1):
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
            w = w * (1 - 0.1 * 0.3) - 0.1 * step
        assert np.allclose(found, w, rtol=1e-4, atol=1e-6)

    def test_sgd(self):
        w, slopes = self.start()
        found = descended("sgd", mx.array(w), mx.array(slopes), weight_decay=0.3)
        for g in slopes:
            w = w * (1 - 0.1 * 0.3) - 0.1 * g
        assert np.allclose(found, w, atol=1e-6)

    @pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
    def test_muon_of_one_matrix_is_mlx_s(self, shape):
        rng = np.random.default_rng(2)
        w, *slopes = (mx.array(a) for a in rng.normal(size=(3, *shape)))
        reference = optim.Muon(0.1, weight_decay=0.0)
        tree = {"w": w}
        for slope in slopes:
            tree = reference.apply_gradients({"w": slope}, tree)
        found = descended("muon", w, mx.stack(slopes))
        assert np.allclose(found, np.array(tree["w"]), atol=1e-4)

    def test_orthogonal_brings_singular_values_near_1(self):
        drawn = np.random.default_rng(3).normal(size=(2, 7, 3)).astype(np.float32)
        found = np.array(optimisers.orthogonal(mx.array(drawn), 5))
        singular = np.linalg.svd(found, compute_uv=False)
        assert singular.min() > 0.6
        assert singular.max() < 1.25


class TestRate:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("warmup", [0, 3])
    def test_the_compiled_rate_is_the_arithmetic_one(self, kind, warmup):
        schedule = Schedule(10, kind=kind, warmup=warmup)
        for step in range(13):
            found = schedule(2e-3, mx.array(step, mx.uint64)).item()
            assert found == pytest.approx(2e-3 * schedule.at(step), rel=1e-5)

    def test_it_rises_in_equal_parts_and_then_falls(self):
        schedule = expert_schedule(
            TrainingOptions(steps=8, warmup=3, lr_schedule="linear")
        )
        shares = [schedule.at(step) for step in range(10)]
        rising, falling = [0.25, 0.5, 0.75], [1 - 0.9 * i / 5 for i in range(6)]
        assert shares == pytest.approx([*rising, *falling, 0.1])

    def test_the_default_is_what_it_was(self):
        """The cosine of optax's and MLX's form, and no warm-up."""
        schedule = expert_schedule(TrainingOptions(steps=7))
        before = optim.cosine_decay(2e-3, 7, 2e-4)
        for step in range(9):
            number = mx.array(step, mx.uint64)
            assert schedule(2e-3, number).item() == before(number).item()
        assert router_group(TrainingOptions()).optimizer._schedulers == {}

    @pytest.mark.parametrize("step", [0, 2, 3])
    def test_another_end_within_the_warm_up_changes_only_the_end(self, step):
        schedule = Schedule(10, warmup=3)
        assert schedule.going_on(step, 20) == Schedule(20, warmup=3)
        assert schedule.anew(step, 20) == Schedule(20, warmup=3)

    def test_another_end_later_goes_on_from_where_it_was(self):
        schedule = Schedule(10, warmup=3, kind="linear")
        longer = schedule.going_on(6, 20)
        assert longer.at(6) == schedule.at(6)
        assert longer.at(20) == pytest.approx(0.1)
        assert schedule.anew(6, 20).at(6) == 1.0


class TestOptions:
    def test_a_warm_up_that_never_ends_is_told(self):
        (warning,) = trainer_of(steps=4, warmup=4).warnings()
        assert "--warmup 4 is not below --steps 4" in warning

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--optimizer", "adam", "--weight-decay", "0.1"], "adam has none"),
            (["--optimizer", "lion"], "lion"),
            (["--warmup", "-1"], "--warmup -1 must be at least 0"),
        ],
    )
    def test_what_cannot_work_is_refused(self, flags, expected):
        with pytest.raises(ConfigError, match=expected):
            train_config(flags)
        assert TrainConfig().training.optimizer == "adamw"


class TestLifeCycle:
    """Adafactor's averages lack an axis; the life cycle must know which one."""

    def states(self, options):
        """Random averages of the right shapes, and the parameters."""
        trainer = trainer_of(mixture_of(options), optimizer="adafactor")
        groups = [group for level in trainer.levels for group in level.groups]
        states = trainer_state.packed([group.optimizer.state for group in groups])
        drawn = {
            name: mx.random.uniform(shape=a.shape, key=mx.random.key(i))
            for i, (name, a) in enumerate(states.items())
        }
        tree = params.select(trainer.mixture.model, params.ROLES)
        return drawn, params.flatten(tree)

    @pytest.mark.parametrize("pruned", [True, False])
    def test_experts_come_and_go_with_their_averages(self, pruned):
        before = ExpertOptions(rank=2, specialists=2, top_k=3)
        states, old = self.states(before)
        born, gone = reshaping.Growth(before, 2), reshaping.Pruning(before, (1,))
        change = gone if pruned else born
        found = reshaping.optimizers(states, old, change.values(old), change)
        expected, _ = self.states(change.options)
        shapes = {name: array.shape for name, array in expected.items()}
        assert {name: array.shape for name, array in found.items()} == shapes
        linear = "0.model.layers.0.mlp.up_proj"
        for kind in ("exp_avg_sq_row", "exp_avg_sq_col"):
            path = f"{linear}.specialist.lora_b.{kind}"
            rows, before_rows = np.array(found[path]), np.array(states[path])
            if pruned:
                assert np.array_equal(rows, before_rows[1:])
            else:
                assert np.array_equal(rows[:2], before_rows)
                assert np.abs(rows[2:]).max() == 0
            path = f"{linear}.generalist.lora_b.{kind}"
            assert np.array_equal(found[path], states[path])

    def test_nothing_private_is_left_to_forget(self):
        states, _ = self.states(ExpertOptions(rank=2))
        found = forgetting.forgetful(states)
        for name, array in found.items():
            private = {"specialist", "router"} & set(name.split("."))
            assert (np.abs(np.array(array)).max() == 0) == bool(private), name
