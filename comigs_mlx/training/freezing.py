"""Experts that do not learn: a mask over the experts' arrays, and not a role.

A role says who shares parameters with whom. Whether an expert learns is another
question, and experts of one role are stacked in one array. So a step derives by all of
them, and the rows of frozen ones keep their values: weight decay and the momentum of
earlier steps cannot move them either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import mlx.core as mx

from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions


def learning(
    path: str, ndim: int, frozen: Collection[str], experts: ExpertOptions
) -> mx.array | None:
    """The mask of one parameter: 1 where it learns, 0 where its expert is frozen.

    The attention LoRA, `[in, r]`, belongs to the first generalist.

    Args:
        path: The path of the parameter.
        ndim: Its number of axes; 3 for the experts' stacks, `[n, ...]`.
        frozen: The names of the frozen experts.
        experts: The options of the experts, with their names.

    Returns:
        `[n, 1, 1]` or `[1]` float32; None where all of the parameter learns.
    """
    role = params.role_of(path)
    names = [name for name in experts.names if _role(name) == role]
    rows = [float(name not in frozen) for name in (names if ndim == 3 else names[:1])]
    if all(rows):  # routers have no names, and so no rows
        return None
    return mx.array(rows).reshape(-1, *[1] * (ndim - 1))


def keep(
    updated: Mapping[str, mx.array],
    values: Mapping[str, mx.array],
    frozen: Collection[str],
    experts: ExpertOptions,
) -> dict[str, mx.array]:
    """Take back what a step changed in frozen experts.

    Args:
        updated: Maps a path to its value after the step.
        values: Maps a path to its value before the step.
        frozen: The names of the frozen experts.
        experts: The options of the experts, with their names.
    """
    result = dict(updated)
    for path, new in updated.items() if frozen else ():
        mask = learning(path, new.ndim, frozen, experts)
        if mask is not None:
            result[path] = mx.where(mask > 0, new, values[path])
    return result


def _role(name: str) -> str:
    return name.split("-")[0]
