"""What every teacher must do, checked for each file of `training/teachers`."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import registry
from comigs_mlx.model import params
from comigs_mlx.options import TrainingOptions
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Level, Task, router_group
from comigs_mlx.training.teachers import teacher
from tests.training.setting import SHAPES, batch_of, mixture_of, values

OPTIONS = TrainingOptions(balance_weight=0.0)


@pytest.fixture(params=registry.names("teacher"))
def name(request):
    return request.param


@pytest.fixture
def mixture():
    return mixture_of(SHAPES["k<E"], std=0.5)


def test_targets_are_shares_of_the_experts(name, mixture):
    batch = batch_of(1, rows=16)
    targets = teacher(name, Evaluator(mixture)).targets(batch)
    whole = (len(mixture.sites), *batch.mask.shape, mixture.options.experts)
    assert np.broadcast_shapes(targets.shape, whole) == whole
    assert targets.shape[-1] == mixture.options.experts
    assert targets.dtype == np.float32
    assert targets.min() >= 0
    sums = targets.sum(-1)
    assert np.logical_or(np.isclose(sums, 1), sums == 0).all()
    assert sums.max() > 0


def test_measuring_changes_no_value(name, mixture):
    before = values(mixture)
    teacher(name, Evaluator(mixture)).targets(batch_of(1))
    for path, array in values(mixture).items():
        assert np.array_equal(array, before[path])


def test_the_divergence_is_least_at_the_target(name, mixture):
    made = teacher(name, Evaluator(mixture))
    target = mx.array([[[1.0, 0, 0]], [[0.5, 0.5, 0]], [[0, 0, 0]]])
    counted = mx.ones((3, 1))
    exact = made.divergence(target, target[None], counted)
    other = made.divergence(target, mx.array([[[[0.2, 0.3, 0.5]]] * 3]), counted)
    assert exact.shape == other.shape == (1, 3, 1)
    assert (exact[:, :2] < other[:, :2]).all().item()
    assert other[0, 2, 0].item() == 0  # nothing is taught there


def test_only_routers_learn_from_it(name, mixture):
    task = Task(teacher=teacher(f"{name}:weight=5", Evaluator(mixture)))
    level = Level(mixture, [router_group(OPTIONS)], OPTIONS, task)
    before = values(mixture)
    assert level.step([batch_of(0)]).finite
    for path, array in values(mixture).items():
        same = np.array_equal(array, before[path])
        assert same == (params.role_of(path) != "router"), path
