"""Attaches a mixture of LoRA experts to a frozen base model, runs it and detaches it.

    mixture = Mixture(model, ExpertOptions(specialists=2), seed=0)
    logits, routing = mixture(tokens)             # [B, T, vocabulary], Routing
    with mixture.selected("generalist"):          # auto, base, specialist, (0.3, 0.7)
        logits, _ = mixture(tokens)
    mixture.detach()                              # the very same modules again

The block's own MLP code runs between expert-aware linears. One call takes this path:

    mlp(x)                        the base's own object; `attach.mix_in_class` gave it a
      |                           class that sees the call first
    MixtureMLP                    experts.py
      |-- BlockRouting.begin(x)
      |     Mixture.choose        by the selection: the router, fixed weights, or none
      |       Router -> Choice    routers/<name>.py: k of the E experts for each token
      |     low_ranks             A x of every linear that reads x, in one product
      |
      |   the MLP's own code runs, for all k slots at once:
      |-- FanOut, each            [..., in] -> [k, ..., out]: W x + scale B_e A_e x
      |     activation            the model's, which broadcasts over the slots
      |-- MixBack                 [k, ..., in] -> [..., out]: the weighted sum of slots
      '-- BlockRouting.end()      the linears compute the base's product alone again

    Choice -> Routing             collected block by block, returned beside the logits
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.errors import UnsupportedModel, line
from comigs_mlx.model import params
from comigs_mlx.model.attach import Site, family_name, mix_in_class, sites
from comigs_mlx.model.backbone import Backbone
from comigs_mlx.model.experts import BlockRouting, FanOut, MixBack, MixtureMLP
from comigs_mlx.model.lora import DerivedCache, Mode, SharedLoRA
from comigs_mlx.model.routers import RouterKind, router_kind
from comigs_mlx.model.routing import Ask, Choice, Routing, fixed_choice
from comigs_mlx.model.selection import Selection, allowed, check
from comigs_mlx.model.tables import tables_of
from comigs_mlx.options import ExpertOptions
from comigs_mlx.platform.x86.substitutes import fast_functions

Router = Callable[[mx.array, Ask], Choice]
"""What a file of `model/routers` makes; see there."""

Noise = mx.array
"""`[batch, tokens, layers, E]` float32, uniform on (0, 1)."""

Tilt = mx.array
"""`[layers, E]` or `[batch, 1, layers, E]` float32, added to the routers' logits."""


@dataclass
class Call:
    """What the blocks of one forward pass are given beside their inputs.

    Attributes:
        training: Whether parameters learn from this pass.
        noise: The draw of a step, for routers that want it; None while it is used.
        tilt: None adds nothing to the logits.
        carry: The arrays that the last block's router handed on.
        k: The slots that a token may use at most; None means the options' top-k.
    """

    training: bool = False
    noise: Noise | None = None
    tilt: Tilt | None = None
    carry: tuple[mx.array, ...] = ()
    k: int | None = None

    def arrays(self) -> dict[str, Any]:
        """The fields that hold arrays, by name."""
        given = {"noise": self.noise, "tilt": self.tilt, "carry": self.carry}
        return {name: value for name, value in given.items() if value is not None}


class Mixture:
    """A base model with experts attached; call it for logits and routing.

    Attributes:
        model: The mlx-lm model; usable as it is wherever mlx-lm wants one.
        router: The kind of the blocks' routers, with its options.
        options: The number of experts, their rank and so on, with defaults resolved.
        sites: The adapted blocks, first to last.
        tables: The limits of token ids and positions; use `check_tokens` before ids
            become an array, lengths are compared here.
        fast_functions: Makes a context in which the model's code calls the functions
            that are cheap for many tokens on this platform; on Apple silicon it changes
            nothing.
    """

    def __init__(self, model: nn.Module, options: ExpertOptions, seed: int = 0):
        """Attach fresh experts (B = 0, so the model computes what it did before).

        Raises:
            UnsupportedModel: If the model's family does not fit; nothing is changed.
            ConfigError: If the options ask for what the model does not have.
        """
        self.model = model
        self.options = options.resolved()
        self.tables = tables_of(model)
        self.sites = sites(model, options.num_layers)
        self._selection: Selection = "auto"
        self._mode = Mode()
        self._collected: list[Routing] | None = None
        self._undo: list[Callable[[], None]] = []
        self.router = router_kind(options.router_type)
        self._call = Call()
        keys = mx.random.split(mx.random.key(seed), len(self.sites))
        try:
            self._freeze()
            for layer, (site, key) in enumerate(zip(self.sites, keys, strict=True)):
                self._attach(layer, site, self.router, key)
            self._backbone = Backbone(model, self.on_detach)
            self.fast_functions = fast_functions(model)
            self._check_forward()
            mx.eval(params.select(model, params.ROLES))
        except BaseException as error:
            self.detach()
            if isinstance(error, (AttributeError, TypeError, ValueError)):
                raise UnsupportedModel(
                    f"base model family {family_name(model)!r} cannot take experts: "
                    f"{line(error)}"
                ) from error
            raise

    def _freeze(self) -> None:
        """Freeze the base; a detach restores which parameters were trainable."""
        for _, module in self.model.named_modules():
            self.on_detach(partial(setattr, module, "_no_grad", {*module._no_grad}))
        self.model.freeze()

    def _attach(self, layer: int, site: Site, kind: RouterKind, key: mx.array) -> None:
        """Put experts and a router into one block.

        Every part has a key of its own, in a fixed order (the MLP's linears, those of
        the attention, the router): the same seed gives the same experts everywhere.
        """
        options = self.options
        attention = site.attention_linears if options.attention_lora else []
        count = len(site.mlp_linears) + len(attention) + 1
        *linear_keys, router_key = mx.random.split(key, count)
        router = kind.make(layer == 0, site.dims, options.experts, router_key)
        choose = partial(self.choose, router, layer)
        routing = BlockRouting(choose, DerivedCache(self._mode))
        keys = iter(linear_keys)
        for name in site.mlp_linears:
            self._attach_experts(site, name, routing, next(keys))
        for name in attention:
            linear, rank, scale = site.attention[name], options.rank, options.scale
            shared = SharedLoRA(linear, self._mode, rank, scale, next(keys))
            self._replace(site.attention, name, shared)
        self._mix_in(site.mlp, router, routing)

    def _attach_experts(
        self, site: Site, name: str, routing: BlockRouting, key: mx.array
    ) -> None:
        """Replace one linear of a block's MLP by one that has the experts."""
        options = self.options
        groups = {"generalist": options.generalists, "specialist": options.specialists}
        kind = MixBack if name == site.mix_back else FanOut
        how = (groups, options.rank, options.scale, key)
        expert = kind(site.mlp[name], name, routing, self._mode, *how)
        self._replace(site.mlp, name, expert)
        if isinstance(expert, FanOut):
            routing.readers.append(expert)

    def _replace(self, owner: nn.Module, name: str, module: nn.Module) -> None:
        self.on_detach(partial(owner.__setitem__, name, owner[name]))
        owner[name] = module

    def _mix_in(self, mlp: nn.Module, router: nn.Module, routing: BlockRouting) -> None:
        """Give the MLP its router, and a class that calls it first.

        The class changes and the object stays: code that refers to the MLP, in the
        model or outside, goes through the router from now on.
        """
        mlp.router = router
        mlp._routing = routing
        self.on_detach(partial(mlp.__delattr__, "router"))
        self.on_detach(partial(mlp.__delattr__, "_routing"))
        self.on_detach(mix_in_class(mlp, MixtureMLP))

    def _check_forward(self) -> None:
        """Build the forward passes, unevaluated, and check that every block is routed.

        The model is run in both ways: whole, and as body and head.
        """
        tokens = mx.zeros((1, 2), mx.int32)
        try:
            with self.collecting() as blocks:
                logits = self.model(tokens)
            hidden, routing = self.body(tokens)
            by_parts = self.head(hidden)
        except Exception as error:
            raise self._unfit(line(error)) from error
        counts = [len(blocks), routing.weights.shape[0]]
        shapes = {logits.shape, by_parts.shape}
        if counts != [len(self.sites)] * 2 or shapes != {(1, 2, logits.shape[-1])}:
            raise self._unfit(
                f"{min(counts)} of {len(self.sites)} blocks were routed, and two "
                f"tokens' logits have shape {logits.shape}, in halves {by_parts.shape}"
            )

    def _unfit(self, why: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"base model family {family_name(self.model)!r} does not run with experts "
            f"attached: {why}"
        )

    def on_detach(self, undo: Callable[[], None]) -> None:
        """Run `undo` when the mixture is detached; the last one added runs first."""
        self._undo.append(undo)

    def detach(self) -> None:
        """Take experts and routers off: the very same modules as before are left."""
        while self._undo:
            self._undo.pop()()
        self.sites = []

    @property
    def layers(self) -> list[str]:
        """The paths of the adapted MLPs, first to last."""
        return [site.mlp_path for site in self.sites]

    @property
    def selection(self) -> Selection:
        """The source of the experts' weights; see `select`."""
        return self._selection

    def select(self, selection: Selection) -> None:
        """Choose which experts speak from now on.

        Args:
            selection: `auto` lets the router choose. `generalist` and `specialist` let
                it choose among those experts only. `base` lets no expert speak, and
                turns the attention LoRA off. A tuple has one weight for each expert,
                which holds for every token.

        Raises:
            ConfigError: If there is no such expert, or the weights do not fit.
        """
        check(selection, self.options)
        self._selection = selection
        self._mode.attention = selection != "base"

    @contextlib.contextmanager
    def selected(self, selection: Selection) -> Iterator[None]:
        """Select as `select` does, for the time of a block."""
        before = self._selection
        self.select(selection)
        try:
            yield
        finally:
            self.select(before)

    def choose(self, router: Router, layer: int, x: mx.array) -> Choice | None:
        """What a block runs for its input `x` `[..., dims]`; None if no expert does.

        Args:
            router: The block's router.
            layer: The number of the block among the adapted ones.
            x: The input of the block's MLP.
        """
        if isinstance(self._selection, tuple):
            choice = fixed_choice(self._selection, x)
        elif not (among := allowed(self._selection, self.options)):
            return None
        elif len(among) == 1:  # nothing to route
            all_experts = range(self.options.experts)
            choice = fixed_choice(tuple(float(e in among) for e in all_experts), x)
        else:
            choice = router(x, self._ask(layer, among))
            self._call.carry = choice.carry
        if self._collected is not None:
            self._collected.append(choice.routing(self.options.experts))
        return choice

    def _ask(self, layer: int, among: tuple[int, ...]) -> Ask:
        call = self._call
        noise = None if call.noise is None else call.noise[:, :, layer]
        tilt = None if call.tilt is None else call.tilt[..., layer, :]
        carry = call.carry if layer else ()
        k = min(call.k or self.options.top_k, len(among))
        return Ask(k, among, call.training, noise, tilt, carry)

    @contextlib.contextmanager
    def training(
        self, noise: Noise | None = None, k: int | None = None
    ) -> Iterator[None]:
        """Forward passes inside the `with` are those that parameters learn from.

        Args:
            noise: The noise for routers that want it (`router.noise`).
            k: The slots that a token may use at most; None means the options' top-k.
        """
        with self.calling(Call(True, noise, self._call.tilt, k=k)):
            yield

    @contextlib.contextmanager
    def tilted(self, tilt: Tilt | None) -> Iterator[None]:
        """Add a tilt to the routers' logits inside the `with`; None adds nothing."""
        with self.calling(dataclasses.replace(self._call, tilt=tilt)):
            yield

    @contextlib.contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Forward passes inside the `with` are given this."""
        before, self._call = self._call, call
        try:
            yield
        finally:
            self._call = before

    @property
    def call(self) -> Call:
        """What the blocks of the forward pass under way are given."""
        return self._call

    def record(self, routing: Routing) -> None:
        """Add the next block's routing to the list being collected, if any."""
        if self._collected is not None:
            self._collected.append(routing)

    def __call__(self, tokens: mx.array, cache: Any = None) -> tuple[mx.array, Routing]:
        """Run the model; return what it computed, and how it was routed.

        Args:
            tokens: The token ids, `[batch, tokens]` integer.
            cache: mlx-lm's prompt cache, which is updated in place.

        Returns:
            The logits `[batch, tokens, vocabulary]` and the `Routing` of these tokens
            (its arrays have no layer if the selection is `base`).
        """
        self.tables.check_length(_read(cache) + tokens.shape[1])
        return self._routed(tokens, lambda: self.model(tokens, cache=cache))

    def body(self, tokens: mx.array) -> tuple[mx.array, Routing]:
        """Run the model up to its last norm, without its logits.

        It uses the platform's `fast_functions`, so the result equals what the model
        itself computes but for rounding.

        Args:
            tokens: The token ids, `[batch, tokens]` integer.

        Returns:
            The hidden vectors that `head` takes, `[batch, tokens, dims]`, and the
            `Routing`.
        """
        self.tables.check_length(tokens.shape[1])
        with self.frozen(False), self.fast_functions():
            return self._routed(tokens, lambda: self._backbone.body(tokens))

    def head(self, hidden: mx.array) -> mx.array:
        """Compute logits `[batch, tokens, vocabulary]` of what `body` returned."""
        return self._backbone.head(hidden)

    def _routed(
        self, tokens: mx.array, run: Callable[[], mx.array]
    ) -> tuple[mx.array, Routing]:
        with self.collecting() as blocks:
            result = run()
        if not blocks:
            nothing = mx.zeros((0, *tokens.shape, self.options.experts))
            return result, Routing(nothing, nothing, nothing)
        return result, Routing.stacked(blocks)

    @contextlib.contextmanager
    def frozen(self, frozen: bool = True) -> Iterator[None]:
        """Keep results that are made of the experts' values alone from call to call."""
        before, self._mode.frozen = self._mode.frozen, frozen
        try:
            yield
        finally:
            self._mode.frozen = before

    @contextlib.contextmanager
    def collecting(self) -> Iterator[list[Routing]]:
        """Collect the routing, block by block, of what runs inside the `with`."""
        before, self._collected = self._collected, []
        try:
            yield self._collected
        finally:
            self._collected = before


def _read(cache: Any) -> int:
    """Count the tokens in mlx-lm's prompt cache; 0 if it has one offset a row
    (batches).
    """
    offsets = (getattr(part, "offset", 0) for part in cache or [])
    return max((part for part in offsets if isinstance(part, int)), default=0)
