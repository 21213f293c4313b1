"""Gradient checkpointing: keeps what enters and leaves a block, recomputes the rest.

The routing of a block leaves it as an output, so that statistics and the
load-balancing loss are the same with and without it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from comigs_mlx.errors import UnsupportedModel, line
from comigs_mlx.model import params
from comigs_mlx.model.attach import family_name, mix_in_class
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.model.routing import Routing


def recompute_blocks(mixture: Mixture) -> None:
    """Make every adapted block recompute its forward pass in the backward pass.

    `mixture.detach` undoes it.

    Raises:
        UnsupportedModel: If the blocks of this family cannot be run like that; nothing
            is changed then.
    """
    undo: list[Callable[[], None]] = []
    for site in mixture.sites:
        site.block._mixture = mixture
        undo.append(partial(delattr, site.block, "_mixture"))
        undo.append(mix_in_class(site.block, RecomputedBlock))
    try:
        _check_backward(mixture)
    except Exception as error:
        for step in reversed(undo):
            step()
        raise UnsupportedModel(
            f"base model family {family_name(mixture.model)!r} cannot recompute its "
            f"blocks ({line(error)}): leave out --grad-checkpoint"
        ) from error
    for step in undo:
        mixture.on_detach(step)


def _check_backward(mixture: Mixture) -> None:
    """Build one backward pass, unevaluated."""
    model = mixture.model

    def total(tokens: mx.array) -> mx.array:
        return mixture.body(tokens)[0].sum()

    values = params.select(model, params.ROLES)
    params.value_and_grad(model, total)(values, mx.zeros((1, 2), mx.int32))


class RecomputedBlock:
    """The class that is mixed in before a block's own."""

    _mixture: Mixture

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        """Run the block on its first argument; the others (mask, cache) are
        mlx-lm's.
        """
        run, by_name = super().__call__, dict(kwargs)  # type: ignore[misc]
        if not args:  # some families call their blocks by keyword
            first = next(iter(inspect.signature(run).parameters))
            args = (by_name.pop(first),)
        x, *rest = args

        mixture = self._mixture
        call, given = mixture.call, mixture.call.arrays()

        # An array that `inner` captured would get a gradient of 0, without a word.
        def inner(values: Tree, x: mx.array, given: dict[str, Any]) -> tuple[Any, ...]:
            self.update(values)  # type: ignore[attr-defined]
            # The contexts are entered here, because this runs a second time in the
            # backward pass, when those of the mixture's own call have ended.
            with (
                mixture.frozen(False),
                mixture.fast_functions(),
                mixture.calling(dataclasses.replace(call, **given)),
                mixture.collecting() as blocks,
            ):
                y = run(x, *rest, **by_name)
                carry = mixture.call.carry
            return y, [block.arrays() for block in blocks], carry

        values = self.trainable_parameters()  # type: ignore[attr-defined]
        y, blocks, carry = mx.checkpoint(inner)(values, x, given)
        mixture.call.carry = tuple(carry)
        for block in blocks:
            mixture.record(Routing(*block))
        return y
