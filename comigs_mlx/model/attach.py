"""Finds where experts go in a block of any mlx-lm family, without per-family code.

A block's token mixer (attention) takes a cache; its MLP takes the tokens alone. The
out-projection is the last linear the MLP calls in one dry run, and every other one
must read the MLP's own input. A block that does not fit is refused in one sentence
that names the family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.errors import ConfigError, UnsupportedModel
from comigs_mlx.model.lora import dimensions

LINEARS = (nn.Linear, nn.QuantizedLinear)
EXPERT_PARTS = ("SwitchLinear", "QuantizedSwitchLinear", "SwitchGLU", "SwitchMLP")


@dataclass(frozen=True)
class Site:
    """The places where one block takes experts.

    Attributes:
        block: The transformer block that takes experts.
        mlp_path: The path of the MLP in the model, such as `model.layers.3.mlp`.
        mlp: The MLP of that block.
        fan_out: The child names of the linears that read the MLP's input.
        mix_back: The child name of the last linear.
        attention_path: The path of the attention module.
        attention: The attention of that block.
        attention_linears: The child names of its linears.
        dims: The width of the MLP's input.
    """

    block: nn.Module
    mlp_path: str
    mlp: nn.Module
    fan_out: list[str]
    mix_back: str
    attention_path: str
    attention: nn.Module
    attention_linears: list[str]
    dims: int

    @property
    def mlp_linears(self) -> list[str]:
        """The child names of all linears of the MLP."""
        return [*self.fan_out, self.mix_back]


def family_name(model: nn.Module) -> str:
    """Return mlx-lm's name of the model's family, for error texts."""
    return str(getattr(model, "model_type", type(model).__module__))


def sites(model: nn.Module, num_layers: int = -1) -> list[Site]:
    """Return the sites of the last `num_layers` blocks (-1: all), first to last.

    Raises:
        ConfigError: If there are not that many blocks.
        UnsupportedModel: If a block does not fit; the text names the family.
    """
    family = family_name(model)
    if not getattr(model, "layers", None):
        raise UnsupportedModel(f"base model family {family!r} has no list of blocks")
    paths = {id(module): path for path, module in model.named_modules()}
    blocks = list(model.layers)
    if num_layers > len(blocks):
        raise ConfigError(
            f"--num-layers {num_layers} is more than the {len(blocks)} blocks of the "
            "base model: lower it, or take all with -1"
        )
    adapted = blocks if num_layers == -1 else blocks[-num_layers:]
    return [_site(family, paths[id(block)], block) for block in adapted]


def mix_in_class(module: nn.Module, mixin: type[Any]) -> Callable[[], None]:
    """Let `mixin` see the calls of `module` first; the module stays the same object.

    Its class becomes a subclass of `mixin` and of its own. The function that is
    returned undoes it.

    Python looks `__call__` up in the class and never in the object, so a function put
    on the object would not be called. A module that wraps this one would change the
    paths of its parameters, and code that holds the module itself would bypass it.
    """
    before = type(module)
    module.__class__ = type(f"{mixin.__name__}{before.__name__}", (mixin, before), {})

    def undo() -> None:
        module.__class__ = before

    return undo


def _site(family: str, path: str, block: nn.Module) -> Site:
    kinds = {type(module).__name__ for _, module in block.named_modules()}
    if kinds.intersection(EXPERT_PARTS):
        raise UnsupportedModel(
            f"base model family {family!r} is itself a mixture of experts ({path}); "
            "choose a base whose blocks have one plain MLP"
        )
    mixers, mlps = _split(block)
    if len(mixers) != 1 or len(mlps) != 1:
        raise UnsupportedModel(
            f"base model family {family!r} does not fit: {path} has "
            f"{_listed(mixers)} that take a cache and {_listed(mlps)} that do not, "
            "expected one attention and one MLP"
        )
    (mixer, mlp) = (mixers[0], mlps[0])
    fan_out, mix_back, dims = _dry_run(family, f"{path}.{mlp}", block[mlp])
    return Site(
        block=block,
        mlp_path=f"{path}.{mlp}",
        mlp=block[mlp],
        fan_out=fan_out,
        mix_back=mix_back,
        attention_path=f"{path}.{mixer}",
        attention=block[mixer],
        attention_linears=_linears(block[mixer]),
        dims=dims,
    )


def _split(block: nn.Module) -> tuple[list[str], list[str]]:
    """Return the block's children with linears: those that take a cache, and the
    rest.
    """
    mixers: list[str] = []
    mlps: list[str] = []
    for name, child in block.children().items():
        if isinstance(child, nn.Module) and (_linears(child) or child.children()):
            # By signature, as the names differ (self_attn, attn, mixer), while every
            # family of mlx-lm gives what remembers earlier tokens a `cache`.
            takes = inspect.signature(type(child).__call__).parameters
            (mixers if "cache" in takes else mlps).append(name)
    return mixers, mlps


def _linears(module: nn.Module) -> list[str]:
    return [n for n, child in module.children().items() if isinstance(child, LINEARS)]


def _listed(names: list[str]) -> str:
    return f"{len(names)} modules ({', '.join(names)})" if names else "no module"


class _Probe(nn.Module):
    """Stands in for a linear during a dry run and records each input."""

    def __init__(self, linear: nn.Module, name: str, calls: list[tuple[str, mx.array]]):
        super().__init__()
        self.linear, self._name, self._calls = linear, name, calls

    def __call__(self, x: mx.array) -> mx.array:
        self._calls.append((self._name, x))
        return self.linear(x)


def _dry_run(family: str, path: str, mlp: nn.Module) -> tuple[list[str], str, int]:
    """Run the MLP once, unevaluated, and read off the order of its linears.

    Its input width is not written down anywhere, but the MLP runs for one width only.
    """
    names = _linears(mlp)
    for dims in sorted({dimensions(mlp[name])[0] for name in names}) or [1]:
        x = mx.zeros((1, 1, dims))
        try:
            y, calls = _probed(mlp, names, x)
            break
        except Exception as error:
            reason = f"it cannot run alone ({error})"
    else:
        raise _odd(family, path, reason)
    called = [name for name, _ in calls]
    if sorted(called) != sorted(names) or len(names) < 2:
        raise _odd(family, path, f"it has linears {names} and calls {called}")
    # Identity: an equal array that was computed from `x` (a norm inside the MLP, say)
    # would make one low-rank product for all readers wrong.
    strays = [name for name, argument in calls[:-1] if argument is not x]
    if strays or y.shape != x.shape:
        raise _odd(family, path, f"{strays or called[-1:]} do not read its input")
    return called[:-1], called[-1], dims


def _probed(
    mlp: nn.Module, names: list[str], x: mx.array
) -> tuple[mx.array, list[tuple[str, mx.array]]]:
    """Run the MLP on `x`; return its result, and the inputs of its linears in order."""
    calls: list[tuple[str, mx.array]] = []
    originals = {name: mlp[name] for name in names}
    try:
        for name, linear in originals.items():
            mlp[name] = _Probe(linear, name, calls)
        return mlp(x), calls
    finally:  # restore the model, also where this family is then refused
        for name, linear in originals.items():
            mlp[name] = linear


def _odd(family: str, path: str, reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"base model family {family!r} does not fit: the MLP at {path} is not a set of "
        f"linears that read its input followed by one that closes it: {reason}"
    )
