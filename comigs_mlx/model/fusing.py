"""Fuses experts into the base's weights, so that no low-rank product is left.

`fused` does so in memory with one expert, for quick generation; `plain_weights` makes
the weights of a model without experts, for files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model import params
from comigs_mlx.model.experts import ExpertLinear
from comigs_mlx.model.float_base import QUANTISED, dequantised
from comigs_mlx.model.lora import SharedLoRA
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection, only_expert


@contextlib.contextmanager
def fused(mixture: Mixture, selection: Selection) -> Iterator[None]:
    """Let the model compute, in this block, what one expert alone would.

    It does so at the price of the bare base, and needs memory for another copy of the
    adapted linears (of a quantised base: dequantised, as rounding to few bits again
    would lose most of the expert). The routing is empty, as with `base`.

    Args:
        mixture: The mixture, whose values are read once, at the beginning.
        selection: A selection of one expert with weight 1 (such as generalist), or
            `base`.

    Raises:
        ConfigError: If the selection lets several experts speak.
    """
    expert = only_expert(selection, mixture.options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mixture.selected("base"))
        if expert is not None:
            for site in mixture.sites:
                for owner in (site.mlp, site.attention):
                    _fuse_linears(owner, expert, stack)
        yield


def _fuse_linears(owner: nn.Module, expert: int, stack: contextlib.ExitStack) -> None:
    """Put fused linears among the children of `owner`; `stack` puts the others back."""
    for name, module in list(owner.children().items()):
        if isinstance(module, ExpertLinear):
            a, b = module.apart((expert,)), module.high_rank((expert,))
            weights = (a.squeeze(0), b.squeeze(0))
        elif isinstance(module, SharedLoRA):
            weights = (module.generalist.lora_a, module.scaled_b())
        else:
            continue
        stack.callback(owner.__setitem__, name, module)
        owner[name] = _fused(module.linear, *weights)
        mx.eval(owner[name].parameters())


def _fused(linear: Any, a: mx.array, b: mx.array) -> nn.Module:
    """Return W + (A B)^T as a plain linear."""
    from mlx_lm.tuner.lora import LoRALinear

    lora = LoRALinear.from_base(linear, r=a.shape[1], scale=1.0)
    lora.lora_a, lora.lora_b = a, b
    fused: nn.Module = lora.fuse(dequantize=True)
    return fused


def plain_weights(
    mixture: Mixture, pairs: Mapping[str, tuple[mx.array, mx.array]], dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """Yield every parameter of the base under its own name, with pairs added.

    Sums are taken in float32 and rounded once. What is quantised is dequantised: an
    expert is smaller than the steps of 4 bits, and rounding again would lose it.

    Args:
        mixture: The attached mixture.
        pairs: Maps the path of a linear to its A `[in, r]` and B `[r, out]`.
        dtype: The type of the values.
    """
    modules = dict(mixture.model.named_modules())
    roles = params.flatten(params.select(mixture.model, params.ROLES))
    for name, array in params.flatten(mixture.model.parameters()).items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if name in roles:
            continue
        if isinstance(module, QUANTISED):
            if leaf in ("scales", "biases"):  # they become part of the weight
                continue
            array = dequantised(module, array) if leaf == "weight" else array
        owner = modules.get(path.rpartition(".")[0])
        if isinstance(owner, (ExpertLinear, SharedLoRA)):
            path = path.rpartition(".")[0]
        if leaf == "weight" and path in pairs:
            a, b = (factor.astype(mx.float32) for factor in pairs[path])
            array = array.astype(mx.float32) + mixture.options.scale * (a @ b).T
        is_float = mx.issubdtype(array.dtype, mx.floating)
        public = f"{path}.{leaf}" if path else leaf
        yield public, array.astype(dtype) if is_float else array
