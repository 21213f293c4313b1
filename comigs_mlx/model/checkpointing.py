"""Gradient checkpointing: keep what enters and leaves a block, recompute the rest.

The routing of a block leaves it as an output, so that statistics and the
load-balancing loss are the same with and without it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.model.routing import Routing
from comigs_mlx.model.surgery import put_before


def recompute_blocks(mixture: Mixture) -> None:
    """Make every adapted block recompute its forward pass in the backward pass.

    Undone by `mixture.detach`.
    """
    for site in mixture.sites:
        site.block._mixture = mixture
        mixture.on_detach(partial(delattr, site.block, "_mixture"))
        mixture.on_detach(put_before(site.block, RecomputedBlock))


class RecomputedBlock:
    """Goes before a block's own class."""

    _mixture: Mixture

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """The block of `x`; `args` (mask, cache) are what mlx-lm passes."""
        run = super().__call__  # type: ignore[misc]

        def inner(values: Tree, x: mx.array) -> tuple[mx.array, list[Routing]]:
            self.update(values)  # type: ignore[attr-defined]
            # Also when it runs again, which is after the mixture's own call.
            with self._mixture.in_bulk(), self._mixture.collecting() as blocks:
                y = run(x, *args, **kwargs)
            return y, blocks

        values = self.trainable_parameters()  # type: ignore[attr-defined]
        y, blocks = mx.checkpoint(inner)(values, x)
        for block in blocks:
            self._mixture.record(Routing(*block))
        return y
