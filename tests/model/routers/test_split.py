"""An expert is split in two, or taken out, by what each router's file says."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import registry
from comigs_mlx.model.routers import router_kind, split_type
from comigs_mlx.model.routing import Ask

DIMS = 16
ROUTERS = registry.names("router")
SPLITTING = [name for name in ROUTERS if router_kind(name).split]
X = mx.random.normal((2, 5, DIMS), key=mx.random.key(1))


def made(text, experts, seed=0):
    """A router whose every parameter is far from zero, and its rows."""
    kind = router_kind(text)
    router = kind.make(True, DIMS, experts, mx.random.key(seed))
    rows = {name: router[name] for name in kind.rows if name in router}
    for index, (name, array) in enumerate(rows.items()):
        noise = mx.random.normal(array.shape, key=mx.random.key(seed + index + 7))
        router[name] = rows[name] = array + 0.7 * noise
    return router, rows


def weights(router, experts, among=None):
    among = tuple(range(experts)) if among is None else among
    return np.array(router(X, Ask(len(among), among)).routing(experts).weights)


def test_these_can_be_split():
    assert set(SPLITTING) == {"relu", "static", "stochastic", "topk"}


@pytest.mark.parametrize("name", SPLITTING)
@pytest.mark.parametrize(("experts", "expert"), [(1, 0), (2, 1), (4, 2)])
def test_the_two_weights_sum_to_the_old_one_and_the_others_stay(name, experts, expert):
    router, rows = made(name, experts)
    kind = router_kind(split_type(name))
    larger = kind.make(True, DIMS, experts + 1, mx.random.key(9))
    for each, array in kind.split(rows, expert).items():
        assert larger[each].shape == array.shape
        larger[each] = array
    old, new = weights(router, experts), weights(larger, experts + 1)
    assert np.allclose(new[..., expert], new[..., -1], atol=1e-7)
    new[..., expert] += new[..., -1]
    assert np.allclose(new[..., :-1], old, atol=1e-6)


@pytest.mark.parametrize("name", SPLITTING)
def test_one_that_was_split_can_be_split_again(name):
    text = split_type(name)
    assert split_type(text) == text
    router, rows = made(text, 3)
    larger = router_kind(text).make(True, DIMS, 4, mx.random.key(9))
    for each, array in router_kind(text).split(rows, 1).items():
        larger[each] = array
    old, new = weights(router, 3), weights(larger, 4)
    new[..., 1] += new[..., -1]
    assert np.allclose(new[..., :-1], old, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROUTERS if router_kind(name).rows])
def test_without_a_row_the_others_choose_as_if_they_were_selected(name):
    router, rows = made(name, 4)
    smaller = router_kind(name).make(True, DIMS, 3, mx.random.key(9))
    smaller.update(
        {k: v for k, v in router.parameters().items() if k not in rows}, strict=False
    )
    for each, array in rows.items():
        smaller[each] = array[mx.array([0, 1, 3])]
    old = weights(router, 4, (0, 1, 3))[..., [0, 1, 3]]
    assert np.allclose(weights(smaller, 3), old, atol=1e-6)


def test_a_bias_that_is_zero_changes_nothing():
    plain, _ = made("topk", 3)
    biased = router_kind("topk:bias=true").make(True, DIMS, 3, mx.random.key(0))
    biased.weight = plain.weight
    assert np.array_equal(weights(plain, 3), weights(biased, 3))
    biased.bias = mx.array([0.0, 5.0, 0.0])
    assert (weights(biased, 3)[..., 1] > weights(plain, 3)[..., 1]).all()


def test_a_router_keeps_its_options_when_it_is_split():
    assert split_type("topk:entropy=0.5") == "topk:entropy=0.5,bias=true"
    assert split_type("static") == "static"
