"""Merges a mixture into one plain mlx-lm adapter, where no weight depends on a token.

A block's weights w are then numbers, and each linear has a pair of its own:

    mean    A = sum_e w_e A_e / s,  B = sum_e w_e B_e        rank r; s = sum_e w_e
    stack   A = [sqrt(w_e) A_e],    B = [sqrt(w_e) B_e]      rank n r of n experts

`stack` computes sum_e w_e B_e A_e x, exactly what the mixture's linear computes for one
input. The mean adds cross terms B_e A_f. Neither is the mixture: that mixes the outputs
of whole MLPs, and an activation lies between their linears; so the difference is
measured. Where s < 1 the base takes the rest, to which it adds nothing.

Source of the mean: Poly and MHR, Caccia et al., arXiv 2211.03831; there s = 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from comigs_mlx import expert_shape, tensors
from comigs_mlx.config import configured
from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import ConfigError
from comigs_mlx.expert_shape import ADAPTER, ExpertShape
from comigs_mlx.files import replacing_dir, write_json
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection, allowed, check
from comigs_mlx.model.targets import targets
from comigs_mlx.runs.experts import ADAPTER_CONFIG

How = Literal["mean", "stack"]
HOWS: tuple[How, ...] = ("mean", "stack")

Pair = tuple[mx.array, mx.array]
"""A `[in, rank]` and B `[rank, out]` of one linear, as mlx-lm names them."""

FIXED_ROUTERS = ("static",)
"""The routers whose choice depends on no token."""


@dataclass(frozen=True)
class MergedAdapter:
    """One pair for each linear that carries any.

    Attributes:
        pairs: Maps the path of a linear in the model to its pair.
        rank: The rank of all pairs; the attention's are padded with zeros.
    """

    pairs: dict[str, Pair]
    rank: int

    def arrays(self) -> dict[str, mx.array]:
        """Return the tensors by mlx-lm's names."""
        names = ("lora_a", "lora_b")
        return {
            f"{path}.{name}": array
            for path, pair in self.pairs.items()
            for name, array in zip(names, pair, strict=True)
        }

    def astype(self, dtype: mx.Dtype) -> MergedAdapter:
        """Return the adapter with all values rounded to a type."""
        pairs = {
            path: (a.astype(dtype), b.astype(dtype))
            for path, (a, b) in self.pairs.items()
        }
        return dataclasses.replace(self, pairs=pairs)


def block_weights(mixture: Mixture, selection: Selection) -> list[list[float]]:
    """Return the weight of each expert in each block, the same for every token.

    Args:
        mixture: The attached mixture.
        selection: The experts that speak, as `Mixture.select` takes it.

    Returns:
        `[layers][E]` weights of at least 0.

    Raises:
        ConfigError: If the weights depend on the token, or no expert speaks.
    """
    _check_fixed(mixture, selection)
    with mixture.selected(selection), mixture.frozen(False):
        _, routing = mixture.body(mx.zeros((1, 1), mx.int32))
    weights: Any = routing.weights[:, 0, 0].tolist()
    return [[float(weight) for weight in of_block] for of_block in weights]


def mean_weights(
    mixture: Mixture, selection: Selection, batches: Iterable[Batch]
) -> list[list[float]]:
    """Return each block's mean weight of each expert over the tokens of a text.

    Args:
        mixture: The attached mixture.
        selection: The experts that the router may choose from.
        batches: The text; its padding is left out.

    Returns:
        `[layers][E]` weights of at least 0.
    """
    total: Any = 0.0
    count = 0.0
    for batch in batches:
        mixture.tables.check_tokens(batch.tokens)
        with mixture.selected(selection):
            _, routing = mixture.body(mx.array(batch.tokens)[:, :-1])
        weights = np.array(routing.weights).astype(np.float64)  # [layers, B, T, E]
        total = total + np.einsum("lbte,bt->le", weights, batch.mask)
        count += float(batch.mask.sum())
    means: list[list[float]] = (total / max(count, 1.0)).tolist()
    return means


def is_fixed(mixture: Mixture, selection: Selection) -> bool:
    """Tell whether the weights of a selection are the same for every token.

    Raises:
        ConfigError: If there are no such experts, or no expert speaks.
    """
    options = mixture.options
    check(selection, options)
    if selection == "base":
        raise ConfigError("base has no experts to merge: choose others with --experts")
    router = configured("router", options.router_type).name
    alone = isinstance(selection, tuple) or len(allowed(selection, options)) == 1
    return alone or router in FIXED_ROUTERS


def _check_fixed(mixture: Mixture, selection: Selection) -> None:
    options = mixture.options
    if not is_fixed(mixture, selection):
        router = configured("router", options.router_type).name
        example = ",".join([f"{1 / options.experts:.2g}"] * options.experts)
        raise ConfigError(
            f"the router {router} weighs the experts token by token, which no single "
            "adapter can: train with --router-type static, or fix the weights, such as "
            f"--experts {example}"
        )


def merge(
    mixture: Mixture, weights: Sequence[Sequence[float]], how: How
) -> MergedAdapter:
    """Merge all experts of a mixture, block by block.

    Args:
        mixture: The attached mixture.
        weights: The weight of each expert in each block, `[layers][E]`.
        how: `mean` or `stack`, as the module says.
    """
    most = max(sum(weight > 0 for weight in of_block) for of_block in weights)
    rank = mixture.options.rank * (most if how == "stack" else 1)
    pairs: dict[str, Pair] = {}
    for site, of_block in zip(mixture.sites, weights, strict=True):
        for name in site.mlp_linears:
            linear = site.mlp[name]
            stacks = (linear.stacks("lora_a"), linear.stacks("lora_b"))
            a, b = (mx.concatenate(stack) for stack in stacks)  # [E, ...]
            used = [(w, a[e], b[e]) for e, w in enumerate(of_block) if w > 0]
            pair = _stacked(used) if how == "stack" else _mean(used)
            pairs[f"{site.mlp_path}.{name}"] = _padded(pair, rank)
        if mixture.options.attention_lora:
            for name in site.attention_linears:
                lora = site.attention[name].generalist
                path = f"{site.attention_path}.{name}"
                pairs[path] = _padded((lora.lora_a, lora.lora_b), rank)
    mx.eval(pairs)
    return MergedAdapter(pairs, rank)


def _mean(used: Sequence[tuple[float, mx.array, mx.array]]) -> Pair:
    """Return the weighted mean of A, and the weighted sum of B."""
    total = math.fsum(w for w, _, _ in used)
    a = reduce(mx.add, [w / total * a for w, a, _ in used])
    return a, reduce(mx.add, [w * b for w, _, b in used])


def _stacked(used: Sequence[tuple[float, mx.array, mx.array]]) -> Pair:
    """Put the pairs side by side; each factor takes the root of the weight."""
    a = mx.concatenate([math.sqrt(w) * a for w, a, _ in used], axis=1)
    return a, mx.concatenate([math.sqrt(w) * b for w, _, b in used], axis=0)


def _padded(pair: Pair, rank: int) -> Pair:
    """Fill a pair with zeros up to a rank: an adapter of mlx-lm has one for all."""
    a, b = pair
    lacking = rank - a.shape[1]
    if lacking == 0:
        return pair
    return mx.pad(a, [(0, 0), (0, lacking)]), mx.pad(b, [(0, lacking), (0, 0)])


@contextlib.contextmanager
def in_place(mixture: Mixture, adapter: MergedAdapter) -> Iterator[None]:
    """Let the model compute, in this block, what mlx-lm would with the adapter.

    The routing is empty then, as with `base`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mixture.selected("base"))
        for site in mixture.sites:
            for path, owner, names in (
                (site.mlp_path, site.mlp, site.mlp_linears),
                (site.attention_path, site.attention, site.attention_linears),
            ):
                for name in names:
                    if (pair := adapter.pairs.get(f"{path}.{name}")) is not None:
                        stack.callback(owner.__setitem__, name, owner[name])
                        scale = mixture.options.scale
                        owner[name] = _with_pair(owner[name].linear, pair, scale)
        yield


def _with_pair(linear: Any, pair: Pair, scale: float) -> nn.Module:
    """Return mlx-lm's own linear with this pair, which does not learn."""
    from mlx_lm.tuner.lora import LoRALinear

    lora: nn.Module = LoRALinear.from_base(linear, r=pair[0].shape[1], scale=scale)
    lora.lora_a, lora.lora_b = pair
    return lora.freeze()


def write(folder: Path, mixture: Mixture, base_id: str, adapter: MergedAdapter) -> None:
    """Write an adapter that mlx-lm loads with `adapter_path`; the folder is new.

    Args:
        folder: The folder, which appears when it is complete.
        mixture: The mixture that was merged.
        base_id: The name of the base model.
        adapter: The adapter that was made of it.
    """
    with replacing_dir(folder) as temporary:
        write_files(temporary, mixture, base_id, adapter)


def write_files(
    folder: Path, mixture: Mixture, base_id: str, adapter: MergedAdapter
) -> None:
    """Write the adapter's two files, as `write` does, into a folder that is there."""
    keys = targets(mixture)
    shape = ExpertShape.of_options(mixture.options, len(mixture.sites), keys)
    shape = dataclasses.replace(shape, rank=adapter.rank)
    tensors.save(folder / ADAPTER, adapter.arrays(), {"format": "mlx"})
    config = expert_shape.adapter_config(shape, base_id, keys)
    write_json(folder / ADAPTER_CONFIG, config)
