"""Tasks: who learns, who stays, who speaks, and what is added to the loss."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model import params
from comigs_mlx.options import TrainingOptions
from comigs_mlx.training.groups import Task, expert_group
from comigs_mlx.training.levels import Level
from tests.training.setting import arrays, batch_of, changed, mixture_of, values

OPTIONS = TrainingOptions(steps=20, learning_rate=1e-2, weight_decay=0.0)


def level_of(task, std=0.1):
    mixture = mixture_of(std=std)
    return mixture, Level(mixture, [expert_group(OPTIONS, task)], OPTIONS, task)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize(
    "task",
    [
        Task(frozen=("lora_a",)),
        Task(roles=("specialist",), selection="specialist"),
        Task(roles=("generalist",), selection="generalist"),
        Task(selection=(0.5, 0.5)),
    ],
)
def test_only_what_the_task_says_moves_and_has_moments(task, batches):
    mixture, level = level_of(task)
    before = values(mixture)
    for seed in range(2):
        level.step([batch_of([seed, i]) for i in range(batches)])
    expected = {path for path in before if task.trains(path)}
    assert 0 < len(expected) < len(before)
    assert changed(before, values(mixture)) == expected
    moments = arrays(level.groups[0].optimizer.state)
    assert {path[:-2] for path in moments if path.endswith(".m")} == expected
    assert mixture.selection == "auto"


def test_the_selection_is_that_of_the_loss():
    mixture, level = level_of(Task(selection=(0.5, 0.5)))
    batch = batch_of(0)
    with mixture.selected((0.5, 0.5)):
        logits, _ = mixture(mx.array(batch.tokens[:, :-1]))
    targets = mx.array(batch.tokens[:, 1:])[..., None]
    losses = mx.logsumexp(logits, -1) - mx.take_along_axis(logits, targets, -1)[..., 0]
    assert level.step([batch]).loss == pytest.approx(losses.mean().item(), rel=1e-5)


def pull_back(values, anchor):
    squares = [(a - anchor[path]).square().sum() for path, a in values.items()]
    return 100.0 * mx.stack(squares).sum()


@pytest.mark.parametrize("batches", [1, 2])
def test_a_penalty_adds_its_gradient_to_that_of_the_mean_loss(batches):
    """First moments are 0.1 x the gradient; that of the penalty is 200 (x - anchor)."""
    found = []
    for penalty in (None, pull_back):
        mixture, level = level_of(Task(penalty=penalty))
        start = values(mixture)
        flat = params.flatten(params.select(mixture.model, params.ROLES))
        level.anchor = {path: array + 0.01 for path, array in flat.items()}
        result = level.step([batch_of(i) for i in range(batches)])
        moments = arrays(level.groups[0].optimizer.state)
        found.append((result.loss, moments))
    (loss, plain), (same_loss, pulled) = found
    assert same_loss == pytest.approx(loss)
    for path in start:
        if params.role_of(path) != "router":
            difference = (pulled[f"{path}.m"] - plain[f"{path}.m"]) / 0.1
            assert np.allclose(difference, 200 * -0.01, rtol=1e-3, atol=1e-3)


def test_without_an_anchor_a_penalty_waits():
    (_, plain), (_, waiting) = (level_of(Task(penalty=p)) for p in (None, pull_back))
    for level in (plain, waiting):
        level.step([batch_of(0)])
    a, b = values(plain.mixture), values(waiting.mixture)
    assert all(np.array_equal(a[k], b[k]) for k in a)
