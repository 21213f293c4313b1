"""Lets an expert of a new run begin as a LoRA adapter that was trained elsewhere.

Both formats have a file adapter_config.json, and are told apart by the other one:

    mlx-lm    adapters.safetensors         scale
    PEFT      adapter_model.safetensors    lora_alpha / r, or lora_alpha / sqrt(r)

Its scale is folded into B. A pair of lower rank than the run's gets rows of zeros in B,
while A keeps its fresh columns there: the product is the adapter's, and what is added
can learn. Pairs on attention linears go into the run's attention LoRA, which belongs to
the first generalist and is always on.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import json_files, tensors
from comigs_mlx.errors import ConfigError, raise_all
from comigs_mlx.expert_shape import ADAPTER
from comigs_mlx.messages import Note, Say
from comigs_mlx.model import hf_paths, params
from comigs_mlx.model.base import HUB_ID, Base
from comigs_mlx.model.lora import dimensions
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.runs.experts import ADAPTER_CONFIG
from comigs_mlx.tensors import MlxArrays

PEFT_ADAPTER = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
FILES = (ADAPTER_CONFIG, ADAPTER, PEFT_ADAPTER)
"""The files that are fetched of an adapter on the Hub, of those that are there."""

ADVICE = "fetch the adapter again, or choose another --init-adapter"

MLX_TENSOR = re.compile(r"(.+)\.lora_([ab])")
PEFT_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Pair:
    """The adapter's pair on one linear.

    Attributes:
        a: The matrix A, `[in, rank]`.
        b: The matrix B, `[rank, out]`.
        scale: The multiplier of their product.
    """

    a: mx.array
    b: mx.array
    scale: float


def begin(
    mixture: Mixture, base: Base, source: str, role: str, shared: bool, say: Say
) -> None:
    """Put an adapter into the first expert of a role.

    Args:
        mixture: The fresh mixture; nothing of it changes where the adapter is refused.
        base: The base model that it is attached to.
        source: The adapter's folder, or its id on the Hub.
        role: `generalist` or `specialist`.
        shared: Whether the run takes part in a federation, which owns the generalists.
        say: Receives a sentence on what was read, and on what to know of it.

    Raises:
        ConfigError: If it cannot be read, or does not fit the run.
    """
    folder = _locate(source, say)
    pairs = read(folder, str(base.config.get("model_type")))
    slots = dict(_slots(mixture, role))
    raise_all(ConfigError, list(_problems(mixture, pairs, slots, source)))
    in_attention = sum(not slots[path].stacked for path in pairs)
    if in_attention and shared:
        raise ConfigError(
            f"--init-adapter {source} has pairs on attention linears, which belong to "
            "the generalist that the federation replaces and shares: take an adapter "
            "of MLP linears alone, or train without --federation"
        )
    present = params.flatten(params.select(mixture.model, params.EXPERTS))
    values: MlxArrays = {}
    for path, pair in pairs.items():
        values |= _placed(pair, slots[path], present, mixture.options.scale)
    mixture.model.update(params.unflatten(values))
    mx.eval(values)
    say(f"the {role} begins as {source}: {len(pairs)} pairs")
    if in_attention:
        say(
            Note(
                f"{in_attention} of its pairs are on attention linears: they are on "
                "for every token, whichever expert it uses"
            )
        )


def _locate(source: str, say: Say) -> Path:
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path.parent
    if path.is_dir():
        return path
    if not HUB_ID.fullmatch(source):
        raise ConfigError(f"--init-adapter {source}: no such folder here")
    from huggingface_hub import snapshot_download

    say(f"looking for {source} on the Hugging Face Hub")
    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # the Hub, its transport and its storage: four trees
        raise ConfigError(
            f"--init-adapter {source}: no such folder here, and it cannot be fetched "
            f"from the Hugging Face Hub ({type(error).__name__}): check the name and "
            "the network, or log in with `hf auth login`"
        ) from error


def read(folder: Path, family: str) -> dict[str, Pair]:
    """Read an adapter of either format.

    Args:
        folder: The adapter's folder.
        family: The base model's type, which says how PEFT's paths are to be read.

    Returns:
        The pair of each linear, by its path in mlx-lm's model.

    Raises:
        ConfigError: If there is no such adapter, or it is more than LoRA pairs.
    """
    is_peft = (folder / PEFT_ADAPTER).is_file()
    if not is_peft and not (folder / ADAPTER).is_file():
        raise ConfigError(_missing(folder))
    config = json_files.read(folder / ADAPTER_CONFIG, ConfigError, ADVICE)
    file = folder / (PEFT_ADAPTER if is_peft else ADAPTER)
    with tensors.reading(file, ConfigError, ADVICE):
        arrays, _ = tensors.load(file)
    with tensors.reading(folder / ADAPTER_CONFIG, ConfigError, ADVICE):
        if is_peft:
            return _of_peft(folder, config, arrays, family)
        return _of_mlx_lm(folder, config, arrays)


def _missing(folder: Path) -> str:
    if (folder / PICKLED).is_file():
        return (
            f"{folder} has its weights in {PICKLED}, which can run code when it is "
            f"read: save the adapter as safetensors ({PEFT_ADAPTER})"
        )
    return (
        f"{folder} is no LoRA adapter: expected {ADAPTER} (mlx-lm) or {PEFT_ADAPTER} "
        "(PEFT) in it"
    )


def _of_mlx_lm(
    folder: Path, config: Mapping[str, Any], arrays: MlxArrays
) -> dict[str, Pair]:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ConfigError(f"{folder} is a {kind} adapter: only LoRA can be taken over")
    scale = float(config["lora_parameters"]["scale"])
    factors = _factors(folder, arrays, MLX_TENSOR)
    return {path: Pair(a, b, scale) for path, (a, b) in factors.items()}


def _of_peft(
    folder: Path, config: Mapping[str, Any], arrays: MlxArrays, family: str
) -> dict[str, Pair]:
    kind = config.get("peft_type")
    extras = [n for n in ("use_dora", "modules_to_save") if config.get(n)]
    if config.get("bias", "none") != "none":
        extras.append("bias")
    if kind != "LORA" or extras:
        what = ", ".join(extras) or f"peft_type {kind}"
        raise ConfigError(f"{folder} has {what}: only plain LoRA can be taken over")
    pairs = {}
    for path, (a, b) in _factors(folder, arrays, PEFT_TENSOR).items():
        alpha = _by_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        rank = a.shape[0]
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        ours = hf_paths.from_hf(family, path)
        pairs[ours] = Pair(a.T, b.T, float(alpha) / divisor)
    return pairs


def _by_pattern(patterns: Mapping[str, Any] | None, path: str, usual: Any) -> Any:
    """Return what is set for a module, as PEFT's `get_pattern_key` finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return usual


def _factors(
    folder: Path, arrays: MlxArrays, name: re.Pattern[str]
) -> dict[str, tuple[mx.array, mx.array]]:
    """Return A and B by the module's path; refuse whatever else is in the file."""
    found: dict[str, dict[str, mx.array]] = {}
    others = []
    for tensor, array in arrays.items():
        match = name.fullmatch(tensor)
        if match is None or array.ndim != 2:
            others.append(tensor)
        else:
            found.setdefault(match[1], {})[match[2].lower()] = array
    others += [path for path, pair in found.items() if len(pair) != 2]
    if others or not found:
        shown = ", ".join(others[:3]) or "no tensor"
        raise ConfigError(
            f"{folder} has more or less than LoRA pairs on linears ({shown}): only "
            "plain LoRA can be taken over"
        )
    return {path: (pair["a"], pair["b"]) for path, pair in found.items()}


@dataclass(frozen=True)
class Slot:
    """A place for a pair.

    Attributes:
        path: The path of the parameters `lora_a` and `lora_b`.
        stacked: Whether they hold a pair for each expert of the role.
        dimensions: The input and output size of the linear.
    """

    path: str
    stacked: bool
    dimensions: tuple[int, int]


def _slots(mixture: Mixture, role: str) -> Iterator[tuple[str, Slot]]:
    """Yield the path of each linear that carries a pair, and its place."""
    for site in mixture.sites:
        for name in site.mlp_linears:
            path = f"{site.mlp_path}.{name}"
            yield path, Slot(f"{path}.{role}", True, dimensions(site.mlp[name].linear))
        if mixture.options.attention_lora:
            for name in site.attention_linears:
                path = f"{site.attention_path}.{name}"
                sizes = dimensions(site.attention[name].linear)
                yield path, Slot(f"{path}.generalist", False, sizes)


def _problems(
    mixture: Mixture, pairs: Mapping[str, Pair], slots: Mapping[str, Slot], source: str
) -> Iterator[str]:
    """Yield one sentence for each way in which the adapter does not fit."""
    strangers = sorted(pairs.keys() - slots.keys())
    if strangers:
        yield (
            f"--init-adapter {source} has pairs on {len(strangers)} linears that carry "
            f"none in this run ({', '.join(strangers[:3])}): {_advice(mixture)}"
        )
    rank = max((pair.a.shape[1] for pair in pairs.values()), default=0)
    if rank > mixture.options.rank:
        yield (
            f"--init-adapter {source} has rank {rank}, this run "
            f"{mixture.options.rank}: pass --rank {rank}"
        )
    for path in sorted(pairs.keys() & slots.keys()):
        pair, expected = pairs[path], slots[path].dimensions
        given = (pair.a.shape[0], pair.b.shape[1])
        if given != expected or pair.a.shape[1] != pair.b.shape[0]:
            yield (
                f"--init-adapter {source} has a pair for {given[0]} inputs and "
                f"{given[1]} outputs on {path}, which has {expected[0]} and "
                f"{expected[1]}: it was trained on another base model"
            )
        elif not bool(mx.isfinite(pair.a).all() & mx.isfinite(pair.b).all()):
            yield f"--init-adapter {source} has values on {path} that are no numbers"


def _advice(mixture: Mixture) -> str:
    fixes = []
    if not mixture.options.attention_lora:
        fixes.append("leave out --no-attention-lora")
    if len(mixture.sites) < len(list(mixture.model.layers)):
        fixes.append("adapt all blocks with --num-layers -1")
    return " or ".join(fixes) or "only the blocks' linears can be taken over"


def _placed(pair: Pair, slot: Slot, present: MlxArrays, scale: float) -> MlxArrays:
    """Return the two parameters of a place with a pair in them.

    Args:
        pair: The adapter's pair.
        slot: The place, of which the first expert takes the pair.
        present: All parameters of the experts, as they are.
        scale: The multiplier of the run's products.
    """
    names = (f"{slot.path}.lora_a", f"{slot.path}.lora_b")
    a, b = (mx.array(present[name]) for name in names)  # a copy of each
    rank = pair.a.shape[1]
    new_a = pair.a.astype(a.dtype)
    new_b = (pair.b.astype(mx.float32) * (pair.scale / scale)).astype(b.dtype)
    if slot.stacked:
        a[0, :, :rank], b[0, :rank] = new_a, new_b
    else:
        a[:, :rank], b[:rank] = new_a, new_b
    return dict(zip(names, (a, b), strict=True))
