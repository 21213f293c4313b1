"""Routers, one a file: which experts a token uses, and with what weight.

A file holds

    class Router(nn.Module)       Router(dims, experts, key), or with its options last;
                                  router(x, ask) -> Choice, see `model/routing.py`
    class Options                 what `--router-type NAME:key=value` sets: a frozen
                                  dataclass of `config.option` fields; may be left out
    class FirstRouter(Router)     the first adapted block's, where that one holds
                                  parameters which all blocks share; may be left out
    NOISE = True                  if it wants `ask.noise` while training
    SPARSE = True                 if a token may use fewer than k experts
    RESTS = True                  if its weights may sum to less than 1 for every k;
                                  False: for none; left out: for k = 1 alone
    ROWS = ("weight",)            the parameters whose first axis is the experts'; one
                                  without it cannot lose an expert
    split(rows, expert) -> rows   those of E + 1 experts, the last a copy of `expert`,
                                  so that no output changes where all are used (k = E);
                                  one without it cannot gain an expert
    SPLIT_OPTIONS = {"bias": True}    the options that it has once it was split

Parameters that blocks share travel from block to block in the choice's `carry`. A block
that captured them would give them no gradient under `--grad-checkpoint`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx import registry
from comigs_mlx.config import configured, written
from comigs_mlx.options import ExpertOptions

Split = Callable[[Mapping[str, mx.array], int], dict[str, mx.array]]
"""Maps the rows of a block's router, and an expert, to the rows with a copy of it."""


@dataclass(frozen=True)
class RouterKind:
    """A router's file and the options it was given.

    Attributes:
        plugin: The module of the router.
        options: An instance of its `Options`; None where it has none.
    """

    plugin: ModuleType
    options: Any

    @property
    def noise(self) -> bool:
        """Whether it wants noise while training."""
        return bool(getattr(self.plugin, "NOISE", False))

    @property
    def sparse(self) -> bool:
        """Whether a token may use fewer than k experts."""
        return bool(getattr(self.plugin, "SPARSE", False))

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the parameters whose first axis is the experts'."""
        return tuple(getattr(self.plugin, "ROWS", ()))

    @property
    def split(self) -> Split | None:
        """What splits an expert in two; None if this router cannot."""
        found: Split | None = getattr(self.plugin, "split", None)
        return found

    def slots(self, options: ExpertOptions) -> int:
        """The hidden vectors that each token has: k, and one more for the base's rest.

        Args:
            options: The options of the experts, with top-k resolved.
        """
        rests = bool(getattr(self.plugin, "RESTS", options.top_k == 1))
        return options.top_k + int(rests and options.experts > 1)

    def make(self, first: bool, dims: int, experts: int, key: mx.array) -> nn.Module:
        """A block's router.

        Args:
            first: Whether the block is the first adapted one.
            dims: The width of the MLP's input.
            experts: The number of experts, E.
            key: The random key of the initial values.
        """
        kind: Any = self.plugin.Router
        if first:
            kind = getattr(self.plugin, "FirstRouter", kind)
        given = () if self.options is None else (self.options,)
        router: nn.Module = kind(dims, experts, key, *given)
        return router


def split_type(text: str) -> str:
    """The `--router-type` of a router once it was split, from what it was before."""
    router = configured("router", text, always=True)
    added = getattr(registry.load("router", router.name), "SPLIT_OPTIONS", {})
    return written(router.name, {**router.given, **added}) if added else text


@functools.lru_cache(maxsize=64)
def router_kind(text: str) -> RouterKind:
    """The router called `NAME` or `NAME:key=value,key=value`.

    Raises:
        ConfigError: If there is no such router, or it has no such options.
    """
    router = configured("router", text, always=True)
    return RouterKind(registry.load("router", router.name), router.options)
