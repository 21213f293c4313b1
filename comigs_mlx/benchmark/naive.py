"""The mixture without our idea: every expert runs the whole MLP, one after the other.

    y = sum_e w_e * MLP(x; base + LoRA_e) + (1 - sum_e w_e) * MLP(x; base)

It shows what `model.experts` saves. Parameters, router and training step are the same;
only the MLP's computation differs. An expert that no token uses runs all the same, as
its tokens are only known while it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.attach import Site, mix_in_class, sites
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions


def mixture(model: nn.Module, options: ExpertOptions, seed: int = 0) -> Mixture:
    """Attach a mixture whose MLPs run naively; otherwise as `Mixture`."""
    bare = [type(site.mlp) for site in sites(model)]
    attached = Mixture(model, options, seed)
    blocks = zip(attached.sites, bare, strict=True)
    for layer, (site, kind) in enumerate(blocks):
        site.mlp._naive = _Naive(attached, layer, site, kind)
        attached.on_detach(partial(delattr, site.mlp, "_naive"))
        attached.on_detach(mix_in_class(site.mlp, NaiveMLP))
    return attached


class NaiveMLP:
    """The class that is mixed in before that of an MLP that has experts."""

    _naive: _Naive

    def __call__(self, x: mx.array) -> mx.array:
        """Compute the MLP, `[..., dims]` -> `[..., dims]`."""
        return self._naive.mixed(x)


class _Naive:
    """Computes one block's MLP; `bare` is the MLP's class without experts."""

    def __init__(self, mixture: Mixture, layer: int, site: Site, bare: type[nn.Module]):
        self._mixture, self._layer = mixture, layer
        self._site, self._bare = site, bare

    def mixed(self, x: mx.array) -> mx.array:
        """Sum every expert's output, weighted by the router."""
        mixture, mlp = self._mixture, self._site.mlp
        if (choice := mixture.choose(mlp.router, self._layer, x)) is None:
            return self._base(x)
        weights = choice.routing(mixture.options.experts).weights.astype(x.dtype)
        outputs = [self._expert(e, x) for e in range(mixture.options.experts)]
        y = weights[..., :1] * outputs[0]
        for e, output in enumerate(outputs[1:], 1):
            y = y + weights[..., e : e + 1] * output
        if not choice.normalised:
            y = y + (1 - weights.sum(-1, keepdims=True)) * self._base(x)
        return y

    def _base(self, x: mx.array) -> mx.array:
        return self._run(x, lambda linear: linear.linear)

    def _expert(self, expert: int, x: mx.array) -> mx.array:
        options = self._mixture.options
        role, i = "generalist", expert
        if expert >= options.generalists:
            role, i = "specialist", expert - options.generalists

        def of_expert(linear: nn.Module) -> _OneLoRA:
            pairs = linear[role]
            return _OneLoRA(
                linear.linear, pairs.lora_a[i], pairs.lora_b[i], options.scale
            )

        return self._run(x, of_expert)

    def _run(
        self, x: mx.array, linear_of: Callable[[nn.Module], nn.Module]
    ) -> mx.array:
        """Run the MLP's own code with other linears for the time of the call."""
        mlp = self._site.mlp
        attached = {name: mlp[name] for name in self._site.mlp_linears}
        try:
            for name, linear in attached.items():
                mlp[name] = linear_of(linear)
            y: mx.array = self._bare.__call__(mlp, x)
            return y
        finally:
            for name, linear in attached.items():
                mlp[name] = linear


class _OneLoRA(nn.Module):
    """W x + scale * B A x, for one expert."""

    def __init__(self, linear: nn.Module, a: mx.array, b: mx.array, scale: float):
        super().__init__()
        self.linear, self._a, self._b, self._scale = linear, a, b, scale

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.linear(x)
        return y + (self._scale * (x @ self._a) @ self._b).astype(y.dtype)
