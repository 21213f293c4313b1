"""Tasks: who learns, who stays, who speaks, and what is added to the loss."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model import params
from comigs_mlx.options import TrainingOptions
from comigs_mlx.training.level import Level, Task, expert_group, router_group
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


def test_frozen_parameters_stay_and_the_others_of_their_roles_move():
    mixture, level = level_of(Task(roles=("generalist",), frozen=("lora_a",)))
    before = values(mixture)
    level.step([batch_of(0)])
    moved = changed(before, values(mixture))
    own = {path for path in before if ".generalist." in path}
    assert moved == {path for path in own if path.endswith(".lora_b")}
    assert {path.rsplit(".", 1)[-1] for path in own - moved} == {"lora_a"}


def test_the_rate_of_experts_falls_and_that_of_routers_stays():
    groups = {"experts": expert_group(OPTIONS), "routers": router_group(OPTIONS)}
    rates = {name: [] for name in groups}
    for name, group in groups.items():
        group.optimizer.init({"x": mx.zeros(1)})
        for _ in range(20):
            group.optimizer.apply_gradients({"x": mx.ones(1)}, {"x": mx.zeros(1)})
            rates[name].append(group.optimizer.learning_rate.item())
    assert rates["routers"] == [pytest.approx(1e-2)] * 20
    expected = [1e-3 + 9e-3 * (1 + np.cos(np.pi * n / 20)) / 2 for n in range(20)]
    assert rates["experts"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("selection", [(0.5, 0.5), (1.0, 0.0), "specialist", "base"])
def test_the_selection_is_that_of_the_loss(selection, batches):
    mixture, level = level_of(Task(selection=selection), std=0.5)
    batch = batch_of(0)
    with mixture.selected(selection):
        logits, _ = mixture(mx.array(batch.tokens[:, :-1]))
    targets = mx.array(batch.tokens[:, 1:])[..., None]
    losses = mx.logsumexp(logits, -1) - mx.take_along_axis(logits, targets, -1)[..., 0]
    found = level.step([batch] * batches).loss
    assert found == pytest.approx(losses.mean().item(), rel=1e-5)


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
