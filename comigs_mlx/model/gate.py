"""Between a block and its MLP: the experts are chosen, then the MLP's own code runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from comigs_mlx.model.experts import FanOut, Wire, low_ranks
from comigs_mlx.model.lora import Kept, Mode
from comigs_mlx.model.routing import Choice


class Gate:
    """Asks for one block's choice and hands it to that block's linears."""

    def __init__(
        self,
        choose: Callable[[mx.array], Choice | None],
        wire: Wire,
        readers: list[FanOut],
        mode: Mode,
    ):
        self.choose, self.wire, self.readers = choose, wire, readers
        self.kept = Kept(mode)

    def open(self, x: mx.array) -> None:
        """From now on, the block's linears run what is chosen for `x`."""
        wire = self.wire
        wire.choice = self.choose(x)
        if wire.choice is not None:
            wire.low = low_ranks(self.readers, x, wire.choice, self.kept)

    def close(self) -> None:
        """The block's linears are themselves again."""
        self.wire.choice, self.wire.low = None, {}


class MixtureMLP:
    """Goes before an MLP's own class (`surgery.put_before`)."""

    _gate: Gate

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """The block's MLP of `x`, with the experts its gate chooses."""
        gate = self._gate
        try:
            gate.open(x)
            y: mx.array = super().__call__(x, *args, **kwargs)  # type: ignore[misc]
        finally:
            gate.close()
        return y
