"""Lists the base models to choose from: here, or worth fetching; loads no weights.

Nothing here asks the network but `on_hub`, which a user has to ask for.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comigs_mlx import json_files
from comigs_mlx.errors import ComigsError, ModelError
from comigs_mlx.model import licence
from comigs_mlx.model.base import (
    DEMO,
    HUB_ID,
    WANTED,
    hub_problem,
    local_folder,
)
from comigs_mlx.model.base_folder import ADVICE
from comigs_mlx.model.demo import WHEEL_MB
from comigs_mlx.model.licence import DEMO_LICENCE, Licence
from comigs_mlx.platform import switch

MB = 10**6
HUB_FOLDER = "models--"
"""How the Hub's cache begins the names of folders that hold models."""


@dataclass(frozen=True)
class KnownModel:
    """A base model, as far as it is known without loading it.

    Attributes:
        id: The id by which it is loaded: "demo", a Hub id or a path.
        title: The name that people call it by.
        about: A few words on its use; empty where nobody has said it.
        here: Whether it is on this device.
        size: The bytes of its weights as they are on the disk.
        download: The bytes to fetch; 0 where it is here.
        licence: The licence that it is under.
        config: Its config.json, or as much of it as is known.
    """

    id: str
    title: str
    here: bool
    size: int
    download: int = 0
    licence: Licence = field(default_factory=Licence)
    config: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


def _llama(
    width: int, hidden: int, blocks: int, heads: int, keys: int, vocabulary: int
) -> dict[str, Any]:
    """The numbers of a config.json that memory depends on."""
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "torch_dtype": "bfloat16",
    }


FOUR_BIT, HALF = 4.5, 16.0
"""The bits of a weight: of MLX's 4-bit groups of 64, with scale and bias, and of 16."""


def _bytes(config: Mapping[str, Any], bits: float) -> int:
    """The bytes of the weights of a model whose head is its embedding, but for norms.

    Args:
        config: The numbers that `_llama` returns.
        bits: The bits of a weight.
    """
    width, hidden = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    block = 2 * width * width + 2 * width * keys + 3 * width * hidden
    count = config["vocab_size"] * width + config["num_hidden_layers"] * block
    return round(count * bits / 8)


def _suggested(
    id: str, title: str, about: str, bits: float, terms: str, config: dict[str, Any]
) -> KnownModel:
    size = _bytes(config, bits)
    return KnownModel(id, title, False, size, size, Licence(terms), config, about)


DEMO_MODEL = KnownModel(
    DEMO,
    "SmolLM2 135M",
    False,
    538 * MB,
    WHEEL_MB * MB,
    Licence(DEMO_LICENCE),
    {**_llama(576, 1536, 30, 9, 3, 49152), "torch_dtype": "float32"},
    "small and quick",
)
"""The demo model; it grows when it is unpacked."""

FOUR_BITS = (
    _suggested(
        "mlx-community/Qwen2.5-0.5B-Instruct-4bit",
        "Qwen2.5 0.5B",
        "many languages",
        FOUR_BIT,
        "apache-2.0",
        _llama(896, 4864, 24, 14, 2, 151936),
    ),
    _suggested(
        "mlx-community/Llama-3.2-1B-Instruct-4bit",
        "Llama 3.2 1B",
        "a good beginning",
        FOUR_BIT,
        "llama3.2",
        _llama(2048, 8192, 16, 32, 8, 128256),
    ),
    _suggested(
        "mlx-community/Qwen2.5-1.5B-Instruct-4bit",
        "Qwen2.5 1.5B",
        "many languages",
        FOUR_BIT,
        "apache-2.0",
        _llama(1536, 8960, 28, 12, 2, 151936),
    ),
    _suggested(
        "mlx-community/Llama-3.2-3B-Instruct-4bit",
        "Llama 3.2 3B",
        "writes well",
        FOUR_BIT,
        "llama3.2",
        _llama(3072, 8192, 28, 24, 8, 128256),
    ),
)
"""Models for Metal, smallest first."""

PLAIN = (
    _suggested(
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "SmolLM2 360M",
        "a good beginning",
        HALF,
        "apache-2.0",
        _llama(960, 2560, 32, 15, 5, 49152),
    ),
    _suggested(
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5 0.5B",
        "many languages",
        HALF,
        "apache-2.0",
        _llama(896, 4864, 24, 14, 2, 151936),
    ),
)
"""Models for a CPU, smallest first: quantised ones are far too slow there."""

SUGGESTED = FOUR_BITS if switch.macos() else PLAIN
"""Models that are worth fetching onto this device."""


def catalogue() -> list[KnownModel]:
    """List the models to choose from: the demo, those on this device, suggestions."""
    found = {model.id: model for model in _cached()}
    demo = here(DEMO) or DEMO_MODEL
    others = [model for model in SUGGESTED if model.id not in found]
    return [demo, *found.values(), *others]


def here(model_id: str) -> KnownModel | None:
    """Describe a model that is on this device; None where it is not, or is no model."""
    folder = local_folder(model_id)
    if folder is None:
        return None
    try:
        config = json_files.read(folder / "config.json", ModelError, ADVICE)
    except ComigsError:
        return None
    weights = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    if not weights:
        return None
    terms = licence.of_folder(folder)
    title, about = _called(model_id)
    return KnownModel(model_id, title, True, weights, 0, terms, config, about)


def described(model_id: str) -> KnownModel:
    """Describe a model that somebody named: here, of the list, or on the Hub.

    Raises:
        ModelError: If it is neither here nor on the Hub, which is asked for it.
    """
    if (known := here(model_id)) is not None:
        return known
    for model in (DEMO_MODEL, *SUGGESTED):
        if model.id == model_id:
            return model
    if os.path.exists(os.path.expanduser(model_id)):
        raise ModelError(f"{model_id} is no model's folder: {ADVICE}")
    if not HUB_ID.fullmatch(model_id):
        raise ModelError(f"no model folder {model_id!r}: {ADVICE}")
    return on_hub(model_id)


def on_hub(model_id: str) -> KnownModel:
    """Ask the Hugging Face Hub how large a model is, and for its licence.

    Raises:
        ModelError: If there is no such model, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model_id, files_metadata=True)
    except Exception as error:  # the Hub, its transport and its storage: four trees
        raise ModelError(hub_problem(model_id, error)) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = sum(size for name, size in sizes.items() if _is_wanted(name))
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    if not weights:
        raise ModelError(f"{model_id} has no weights that can be used here: {ADVICE}")
    card = getattr(info.card_data, "license", None)
    terms = Licence(licence.normal(card))
    title, about = _called(model_id)
    return KnownModel(model_id, title, False, weights, wanted, terms, about=about)


def _is_wanted(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in WANTED)


def _cached() -> Iterator[KnownModel]:
    """The models in the Hub's cache that are whole enough to be tried."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).glob(f"{HUB_FOLDER}*")):
        name = folder.name.removeprefix(HUB_FOLDER).replace("--", "/")
        if HUB_ID.fullmatch(name) and (known := here(name)) is not None:
            yield known


def _called(model_id: str) -> tuple[str, str]:
    """What people call a model, and what it is good for."""
    for model in (DEMO_MODEL, *SUGGESTED):
        if model.id == model_id:
            return model.title, model.about
    return Path(model_id).name, ""
