"""Puts the cheap functions where a model's code looks for the slow ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.platform import switch
from comigs_mlx.platform.x86 import activations
from comigs_mlx.platform.x86.attention import attention, fits

Function = Callable[..., Any]

FastFunctions = Callable[[], AbstractContextManager[None]]
"""Makes a context for one forward pass of many tokens."""


class Substitute(NamedTuple):
    """A name in a module that stands for a slow function."""

    module: ModuleType
    name: str
    slow: Function
    cheap: Function


def substitutes(model: nn.Module) -> list[Substitute]:
    """List the slow functions that the code of `model` has names for, on x86 only."""
    if not switch.x86_cpu():
        return []
    classes = {type(module) for _, module in model.named_modules()}
    names = {parent.__module__ for kind in classes for parent in kind.__mro__}
    pairs = _pairs()
    return [
        Substitute(module, name, slow, cheap)
        for module in [nn, *(sys.modules[name] for name in sorted(names))]
        for name, value in list(vars(module).items())
        for slow, cheap in pairs
        if value is slow
    ]


def _pairs() -> list[tuple[Function, Function]]:
    from mlx_lm.models import activations as slow
    from mlx_lm.models import base

    return [
        (slow.swiglu, _where(_float32, activations.swiglu, slow.swiglu)),
        (nn.silu, _where(_float32, activations.silu, nn.silu)),
        (nn.gelu_approx, _where(_float32, activations.gelu_approx, nn.gelu_approx)),
        (
            base.scaled_dot_product_attention,
            _where(
                lambda q, *args, **kwargs: _float32(q) and fits(q, *args, **kwargs),
                attention,
                base.scaled_dot_product_attention,
            ),
        ),
    ]


def _float32(*arrays: mx.array) -> bool:
    return all(array.dtype == mx.float32 for array in arrays)


def _where(condition: Callable[..., bool], cheap: Function, slow: Function) -> Function:
    def cheap_or_slow(*args: Any, **kwargs: Any) -> Any:
        return (cheap if condition(*args, **kwargs) else slow)(*args, **kwargs)

    return cheap_or_slow


def fast_functions(model: nn.Module) -> FastFunctions:
    """Return a function that makes contexts in which `model` calls the cheap functions.

    The names are looked up once, here: a search through every module of a large model
    costs more than a short step.
    """
    return partial(instead, substitutes(model))


@contextlib.contextmanager
def instead(replaced: Sequence[Substitute]) -> Iterator[None]:
    """Put the cheap functions in place of the slow ones, for the time of the block."""
    for module, name, _, cheap in replaced:
        setattr(module, name, cheap)
    try:
        yield
    finally:
        for module, name, slow, _ in replaced:
            setattr(module, name, slow)
