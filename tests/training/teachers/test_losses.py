"""Each token should use the experts that predict its successor best."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.training.evaluation import Evaluator
from comigs_mlx.training.level import Level, Task, expert_group, router_group
from comigs_mlx.training.teachers import teacher
from comigs_mlx.training.teachers.losses import best
from tests.training.setting import batch_of, mixture_of


def test_shares_of_made_up_losses():
    losses = np.array(
        [
            [1.0, 2.0, 3.0],  # one is best
            [1.0, 1.04, 3.0],  # two within the margin
            [1.0, 1.02, 1.04],  # all alike: nothing to teach
            [2.0, 2.0, 2.0],
        ]
    )
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0], [0, 0, 0]]
    assert np.array_equal(best(losses, 0.05), np.array(expected, np.float32))
    assert np.array_equal(best(losses[3:], 0.0), np.zeros((1, 3), np.float32))


def test_losses_are_those_of_each_expert_alone():
    mixture = mixture_of(std=0.5)
    batch, evaluator = batch_of(3), Evaluator(mixture)
    generalist, specialist = (
        evaluator.batch_losses(batch, name)[0] for name in ("generalist", "specialist")
    )
    expected = best(np.stack([generalist, specialist], -1), 0.05)
    assert np.allclose(teacher("losses", evaluator).targets(batch), expected)


def test_the_better_expert_gets_more_weight_in_every_block():
    """The specialist is made better by training it; then the router is taught."""
    mixture = mixture_of(ExpertOptions(rank=2), std=0.02)
    options = TrainingOptions(learning_rate=0.05)
    evaluator, batch = Evaluator(mixture), batch_of(1)
    alone = Task(roles=("specialist",), selection=(0.0, 1.0))
    specialist = Level(mixture, [expert_group(options, alone)], options, alone)
    for number in range(20):
        specialist.step([batch], number)
    alone = [
        evaluator.batch_losses(batch, s)[0].mean() for s in ((1.0, 0.0), (0.0, 1.0))
    ]
    assert alone[0] > alone[1] + 0.1
    task = Task(teacher=teacher("losses:weight=5", evaluator))
    level = Level(mixture, [router_group(options)], options, task)
    before = shares(mixture, batch)
    for number in range(20):
        assert level.step([batch], number).finite
    assert (shares(mixture, batch) > before + 0.02).all()


def shares(mixture, batch):
    """Mean weight of the specialist in each block."""
    _, routing = mixture(mx.array(batch.tokens))
    return np.array(routing.weights[..., 1].mean((1, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "unknown teacher"),
        ("losses:margin=-1", "margin -1.0 must be at least"),
    ],
)
def test_options_that_cannot_work(text, message):
    with pytest.raises(ConfigError, match=message):
        teacher(text, Evaluator(mixture_of()))
