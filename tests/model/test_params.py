"""Roles are exact components of paths; gradients are of what is asked for only."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = mx.array([[3, 1, 4, 1, 5]])


@pytest.fixture
def mixture():
    """Every expert is used (k = E), so that everything has a gradient and a slope."""
    options = ExpertOptions(specialists=2, top_k=3)
    mixture = Mixture(families.build("llama"), options)
    randomise(mixture.model)
    return mixture


def values(model):
    return {p: np.array(a) for p, a in params.flatten(model.parameters()).items()}


class TestRoles:
    @pytest.mark.parametrize(
        ("path", "role"),
        [
            ("model.layers.0.mlp.router.weight", "router"),
            ("model.layers.0.mlp.up_proj.generalist.lora_a", "generalist"),
            ("model.layers.0.mlp.up_proj.specialist.lora_b", "specialist"),
            ("router", "router"),
            ("my_router_norm.specialist.lora_a", "specialist"),
        ],
    )
    def test_role_is_the_component_of_that_name(self, path, role):
        assert params.role_of(path) == role

    @pytest.mark.parametrize(
        "path",
        [
            "my_router_norm.weight",
            "model.routers.weight",
            "model.Router.weight",
            "model.specialist-1.lora_a",
            "generalists.0.lora_a",
            "model.router.generalist.lora_a",
            "router.router.weight",
            "",
        ],
    )
    def test_anything_else_has_no_role(self, path):
        with pytest.raises(ValueError, match="expected exactly one of"):
            params.role_of(path)

    def test_groups_are_disjoint_and_cover_what_is_trainable(self, mixture):
        groups = params.by_role(mixture.model)
        trainable = params.flatten(mixture.model.trainable_parameters())
        assert set(groups) == set(params.ROLES)
        assert all(groups.values())
        paths = [path for group in groups.values() for path in group]
        assert len(paths) == len(set(paths))
        assert set(paths) == set(trainable)

    def test_a_stray_trainable_parameter_is_an_error(self, mixture):
        norm = mixture.model.model.norm
        norm.unfreeze()
        with pytest.raises(ValueError, match=r"^model\.norm\.weight: expected exactly"):
            params.by_role(mixture.model)
        with pytest.raises(ValueError, match=r"^model\.norm\.weight"):
            params.select(mixture.model, params.ROUTERS)

    def test_counts_are_arithmetic(self, mixture):
        """Rank 8, width 32, hidden 64, keys 16 wide; 2 blocks, 1 + 2 experts."""
        mlp = 2 * 3 * 8 * (32 + 64)
        attention = 2 * 8 * (2 * (32 + 32) + 2 * (32 + 16))
        assert params.counts(mixture.model) == {
            "generalist": mlp + attention,
            "specialist": 2 * mlp,
            "router": 2 * 3 * 32,
        }

    def test_select_takes_these_roles_and_no_other(self, mixture):
        found = params.flatten(params.select(mixture.model, ["router", "specialist"]))
        assert {params.role_of(path) for path in found} == {"router", "specialist"}
        assert params.select(mixture.model, []) == {}

    def test_unflatten_undoes_flatten(self, mixture):
        flat = params.flatten(params.select(mixture.model, params.EXPERTS))
        again = params.flatten(params.unflatten(flat))
        assert again.keys() == flat.keys()
        assert all(again[path] is flat[path] for path in flat)


def test_norms_are_numpys(mixture):
    tree = params.select(mixture.model, ("generalist", "router"))
    squares = {}
    for path, array in params.flatten(tree).items():
        role = params.role_of(path)
        squares.setdefault(role, []).append(np.array(array, np.float64).ravel())
    found = params.norms(tree)
    assert found.keys() == squares.keys() == {"generalist", "router"}
    for role, parts in squares.items():
        expected = np.linalg.norm(np.concatenate(parts))
        assert found[role].item() == pytest.approx(expected, rel=1e-6)


def assert_holds(model, given):
    """These very arrays, and not what `mx.grad` traced in their place."""
    held = params.flatten(model.parameters())
    assert all(held[path] is array for path, array in given.items())


class TestValueAndGrad:
    def loss(self, mixture, factor=1.0):
        logits, _ = mixture(TOKENS)
        return factor * logits.square().mean(), logits

    @pytest.mark.parametrize("roles", [("router",), ("generalist", "specialist")])
    def test_differentiates_the_given_tree_only(self, mixture, roles):
        grad = params.value_and_grad(mixture.model, lambda: self.loss(mixture))
        tree = params.select(mixture.model, roles)
        (value, logits), gradients = grad(tree)
        assert value.item() == pytest.approx(logits.square().mean().item(), rel=1e-6)
        found = params.flatten(gradients)
        assert found.keys() == params.flatten(tree).keys()
        assert {params.role_of(path) for path in found} == set(roles)
        assert all(g.abs().max().item() > 0 for g in found.values())

    def test_gradient_is_the_slope(self, mixture):
        """Against a central difference, along a random direction."""
        model = mixture.model
        tree = params.select(model, params.ROUTERS)
        _, gradients = params.value_and_grad(model, lambda: self.loss(mixture))(tree)
        flat, slope = params.flatten(tree), params.flatten(gradients)
        keys = mx.random.split(mx.random.key(5), len(flat))
        way = {
            p: mx.random.normal(a.shape, key=k)
            for (p, a), k in zip(flat.items(), keys, strict=True)
        }

        def at(step):
            moved = {path: a + step * way[path] for path, a in flat.items()}
            model.update(params.unflatten(moved))
            return self.loss(mixture)[0].item()

        expected = sum((slope[path] * way[path]).sum().item() for path in flat)
        step = 3e-3
        assert (at(step) - at(-step)) / (2 * step) == pytest.approx(expected, rel=0.02)

    def test_leaves_the_model_with_the_given_arrays(self, mixture):
        model = mixture.model
        before = values(model)
        tree = params.select(model, params.EXPERTS)
        moved = params.unflatten(
            {path: a + 1 for path, a in params.flatten(tree).items()}
        )
        grad = params.value_and_grad(model, lambda factor: self.loss(mixture, factor))
        mx.eval(grad(moved, 2.0))
        after = values(model)
        given = params.flatten(moved)
        assert after.keys() == before.keys()
        for path, array in after.items():
            expected = np.array(given[path]) if path in given else before[path]
            assert np.array_equal(array, expected), path
        assert_holds(model, given)

    def test_also_after_an_error(self, mixture):
        model = mixture.model
        before = values(model)
        tree = params.select(model, params.EXPERTS)

        def fails():
            self.loss(mixture)
            raise RuntimeError("while differentiating")

        with pytest.raises(RuntimeError, match="while differentiating"):
            params.value_and_grad(model, fails)(tree)
        after = values(model)
        assert all(np.array_equal(after[path], before[path]) for path in before)
        assert_holds(model, params.flatten(tree))

    def test_arguments_are_passed_on(self, mixture):
        grad = params.value_and_grad(
            mixture.model, lambda factor: self.loss(mixture, factor)[0]
        )
        tree = params.select(mixture.model, params.ROUTERS)
        (one, gradients), (three, thrice) = grad(tree, 1.0), grad(tree, 3.0)
        assert three.item() == pytest.approx(3 * one.item(), rel=1e-6)
        for path, g in params.flatten(gradients).items():
            assert mx.allclose(3 * g, params.flatten(thrice)[path], rtol=1e-4)


def test_stock_gradients_would_reach_both_levels(mixture):
    """Why this module has its own: `nn.value_and_grad` takes every trainable one."""
    grad = nn.value_and_grad(mixture.model, lambda: mixture(TOKENS)[0].square().mean())
    _, gradients = grad()
    roles = {params.role_of(path) for path in params.flatten(gradients)}
    assert roles == set(params.ROLES)
