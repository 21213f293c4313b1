"""Divides a model into body and head, without per-family code.

The body ends where the module that owns the list of blocks returns (embedding, blocks,
last norm); the head makes logits of that. If that module only holds the list and is
never called, the module around it takes its place. MLX is lazy, so each part is made by
calling the whole model: for the body, its logits are dropped before anything computes
them; for the head, the owner of the blocks returns the given hidden vectors at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.model.attach import family_name, mix_in_class


@dataclass
class _HandOver:
    """The values that pass between body and head during one call.

    Attributes:
        given: The result that the owner of the blocks returns instead of running.
        asked: Whether the owner records its result when it runs.
        hidden: The recorded result, `[batch, tokens, dims]`.
        calls: The number of times that the owner ran.
    """

    given: mx.array | None = None
    asked: bool = False
    hidden: mx.array | None = None
    calls: int = 0


class _BlocksOwner:
    """The class that is mixed in before that of the module that owns the blocks."""

    _hand_over: _HandOver

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        """Return the module's own result, or the given one."""
        hand_over = self._hand_over
        if hand_over.given is not None:
            return hand_over.given
        y: mx.array = super().__call__(*args, **kwargs)  # type: ignore[misc]
        hand_over.calls += 1
        if hand_over.asked:
            hand_over.hidden = y
        return y


class Backbone:
    """One model as a body, which makes hidden vectors, and a head, which makes logits.

    Which module ends the body is found by trying: the one that holds the list of blocks
    comes first, then those around it, and the first that runs once in a pass and
    returns an array is taken.
    """

    def __init__(
        self, model: nn.Module, on_detach: Callable[[Callable[[], None]], None]
    ):
        """Find the end of the body; `on_detach` receives the undo of each change.

        Raises:
            UnsupportedModel: If no module of the model owns its blocks.
        """
        self._model, self._hand_over = model, _HandOver()
        for owner in _around_blocks(model):
            owner._hand_over = self._hand_over
            undo: list[Callable[[], None]] = [partial(delattr, owner, "_hand_over")]
            undo.append(mix_in_class(owner, _BlocksOwner))
            if self._ends_body():
                break
            for step in reversed(undo):
                step()
        else:
            raise _ownerless(model)
        for step in undo:
            on_detach(step)

    def _ends_body(self) -> bool:
        """Tell whether the candidate module runs once in a pass, and returns an array.

        A model that cannot run at all is left to `Mixture._check_forward`, which says
        why.
        """
        self._hand_over.asked, self._hand_over.calls = True, 0
        try:
            self._model(mx.zeros((1, 2), mx.int32))
            return self._hand_over.calls == 1 and isinstance(
                self._hand_over.hidden, mx.array
            )
        except Exception:
            return True
        finally:
            self._hand_over.asked, self._hand_over.hidden = False, None

    def body(self, tokens: mx.array) -> mx.array:
        """Compute hidden vectors `[batch, tokens, dims]` of `[batch, tokens]`
        integers.
        """
        self._hand_over.asked = True
        try:
            self._model(tokens)
            assert self._hand_over.hidden is not None
            return self._hand_over.hidden
        finally:
            self._hand_over.asked, self._hand_over.hidden = False, None

    def head(self, hidden: mx.array) -> mx.array:
        """Compute logits `[batch, tokens, vocabulary]` of `[batch, tokens, dims]`."""
        self._hand_over.given = hidden
        try:
            return self._model(mx.zeros(hidden.shape[:2], mx.int32))
        finally:
            self._hand_over.given = None


def _around_blocks(model: nn.Module) -> list[nn.Module]:
    """List the modules around the blocks: the nearest first, the model itself last."""
    modules = dict(model.named_modules())
    blocks = [id(block) for block in model.layers]
    for path, module in modules.items():
        for child in module.values():
            if isinstance(child, list) and [id(item) for item in child] == blocks:
                parts = path.split(".")
                paths = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
                around = [
                    modules[ancestor] for ancestor in paths if ancestor in modules
                ]
                return [*around, *([model] if path else [])]
    raise _ownerless(model)


def _ownerless(model: nn.Module) -> UnsupportedModel:
    return UnsupportedModel(
        f"base model family {family_name(model)!r} does not fit: no module of it holds "
        "its list of blocks"
    )
