"""Fuses one expert into the base's weights, in memory: no low-rank product is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.experts import ExpertLinear
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
