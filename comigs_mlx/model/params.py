"""Parameters by role: selects, merges and counts them, and derives by some roles only.

A role is an exact component of a parameter's path. Every trainable parameter has
exactly one. Stock `nn.value_and_grad` differentiates every trainable parameter; the
two levels of the bilevel problem must not, so this module has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

ROLES = ("generalist", "specialist", "router")
EXPERTS = ("generalist", "specialist")
"""The roles that the lower level of the bilevel problem trains."""

ROUTERS = ("router",)
"""The role that the upper level trains."""

Tree = dict[str, Any]
"""Nested parameters, as MLX modules and optimisers keep them."""


def flatten(tree: Any) -> dict[str, mx.array]:
    """Map the path of every leaf of a parameter tree to its array."""
    return dict(tree_flatten(tree))


def unflatten(flat: dict[str, mx.array]) -> Tree:
    """Build the parameter tree from arrays by path."""
    tree: Tree = tree_unflatten(list(flat.items())) if flat else {}
    return tree


def role_of(path: str) -> str:
    """Return the role of the parameter at `path`.

    Raises:
        ValueError: If the path names no role, or more than one.
    """
    roles = [part for part in path.split(".") if part in ROLES]
    if len(roles) != 1:
        raise ValueError(f"{path}: expected exactly one of {ROLES} in the path")
    return roles[0]


def by_role(model: nn.Module) -> dict[str, dict[str, mx.array]]:
    """Group every trainable parameter of the model by role, then by path.

    Raises:
        ValueError: If a trainable parameter has no role; so the groups are disjoint
            and cover all trainable parameters.
    """
    groups: dict[str, dict[str, mx.array]] = {role: {} for role in ROLES}
    for path, array in flatten(model.trainable_parameters()).items():
        groups[role_of(path)][path] = array
    return groups


def select(model: nn.Module, roles: Sequence[str]) -> Tree:
    """Return the tree of the trainable parameters of these roles."""
    groups = by_role(model)
    return unflatten({p: a for role in roles for p, a in groups[role].items()})


def select_by(model: nn.Module, keep: Callable[[str], bool]) -> Tree:
    """Return the tree of the trainable parameters whose path `keep` is true of."""
    flat = flatten(select(model, ROLES))
    return unflatten({path: array for path, array in flat.items() if keep(path)})


def counts(model: nn.Module) -> dict[str, int]:
    """Count the trainable scalars of each role."""
    groups = by_role(model)
    return {role: sum(a.size for a in group.values()) for role, group in groups.items()}


def norms(tree: Any) -> dict[str, mx.array]:
    """Compute the Euclidean norm (float32 scalar) of the tree's arrays of each role."""
    squares: dict[str, mx.array] = {}
    for path, array in flatten(tree).items():
        role = role_of(path)
        squares[role] = squares.get(role, mx.array(0.0)) + array.square().sum()
    return {role: square.sqrt() for role, square in squares.items()}


def value_and_grad(
    model: nn.Module, fn: Callable[..., Any]
) -> Callable[..., tuple[Any, Tree]]:
    """Derive `fn` by a given part of the model's parameters only.

    Args:
        model: The model that `fn` runs.
        fn: A function that returns a scalar, or a tuple that begins with one.

    Returns:
        A function (tree, *args) -> (value of fn(*args), gradients shaped like tree).
        It leaves the model with the arrays of `tree`.
    """

    def run(tree: Tree, *args: Any) -> Any:
        model.update(tree)
        return fn(*args)

    differentiated = mx.value_and_grad(run)

    def call(tree: Tree, *args: Any) -> tuple[Any, Tree]:
        try:
            value, gradients = differentiated(tree, *args)
        finally:
            model.update(tree)  # never leave it with what mx.grad traced
        return value, gradients

    return call
