"""What llama.cpp wants of each family of models, and how it is undone.

Names of tensors come from the package gguf; what a family does otherwise is here, from
llama.cpp's convert_hf_to_gguf.py:

    llama     rotates neighbouring rows of a head, so the rows of queries and keys are
              put in another order (mlx-lm and transformers rotate the two halves)
    gemma     adds 1 to the weights of its norms in the file, not in the model
    llama 3.x stretches positions by a table of factors, which is a tensor there
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import UnsupportedModel

Array = npt.NDArray[Any]

SUFFIXES = (".weight", ".bias")
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """What is particular about a family.

    Attributes:
        architecture: llama.cpp's name of it, a key of gguf's `MODEL_ARCH`.
        pairs: Whether the rows of queries and keys are in llama.cpp's order of pairs.
        norms_add_one: Whether 1 is added to the weights of norms.
    """

    architecture: str
    pairs: bool = False
    norms_add_one: bool = False


FAMILIES = {
    "llama": Family("LLAMA", pairs=True),
    "mistral": Family("LLAMA", pairs=True),
    "qwen2": Family("QWEN2"),
    "qwen3": Family("QWEN3"),
    "gemma": Family("GEMMA", norms_add_one=True),
}
"""mlx-lm's model type -> what llama.cpp wants."""


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family of a model.

    Raises:
        UnsupportedModel: If it is none that is known here, or stretches positions in a
            way that is not.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedModel(
            f"the family {kind!r} cannot be written to GGUF here, "
            f"{', '.join(FAMILIES)} can: export with --format fused"
        )
    scaling = rope_scaling(config)
    if scaling is not None and scaling[0] not in ("linear", "llama3"):
        raise UnsupportedModel(
            f"positions stretched by {scaling[0]!r} cannot be written to GGUF here, "
            "linear and llama3 can: export with --format fused"
        )
    return FAMILIES[kind]


def rope_scaling(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return how positions are stretched, and by what; None where they are not."""
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if isinstance(given, dict):
            kind = given.get("rope_type", given.get("type", "default"))
            return None if kind == "default" else (str(kind), given)
    return None


def heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the number of query heads, of key heads, and the width of a head."""
    count = int(config["num_attention_heads"])
    pairs = int(config.get("num_key_value_heads") or count)
    width = config.get("head_dim") or int(config["hidden_size"]) // count
    return count, pairs, int(width)


def rope_base(config: Mapping[str, Any]) -> float:
    """Return the base of the rotation's frequencies."""
    inner = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or inner.get("rope_theta") or 10000.0)


def rope_factors(config: Mapping[str, Any]) -> Array | None:
    """Return llama 3's factor of each frequency, `[head width / 2]` float32.

    Source: `llama3` in transformers' modeling_rope_utils.py; slow frequencies are
    divided by the factor, fast ones stay, and between them it goes over smoothly.
    """
    scaling = rope_scaling(config)
    if scaling is None or scaling[0] != "llama3":
        return None
    given = scaling[1]
    factor, low = float(given["factor"]), float(given["low_freq_factor"])
    high, old = (
        float(given["high_freq_factor"]),
        float(given["original_max_position_embeddings"]),
    )
    width = heads(config)[2]
    frequencies = rope_base(config) ** -(np.arange(0, width, 2) / width)
    turns = old * frequencies / (2 * math.pi)  # in the context it was trained for
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def converter(
    config: Mapping[str, Any], undo: bool = False
) -> Callable[[str, Array], Array]:
    """Return what turns a tensor of mlx-lm into llama.cpp's, or back.

    Args:
        config: The model's configuration.
        undo: Whether to turn llama.cpp's tensor into mlx-lm's.
    """
    family, (count, keys, _) = family_of(config), heads(config)
    rotated = {"q_proj": count, "k_proj": keys} if family.pairs else {}

    def convert(name: str, array: Array) -> Array:
        *_, module, _ = name.split(".")
        if module in rotated:
            return _reordered(array, rotated[module], undo)
        if family.norms_add_one and module.endswith("norm"):
            return array - 1 if undo else array + 1
        return array

    return convert


def _reordered(array: Array, count: int, undo: bool) -> Array:
    """Put the rows of `count` heads `[rows, ...]` in the other order."""
    rest = array.shape[1:]
    half = array.shape[0] // count // 2
    shape = (count, half, 2, *rest) if undo else (count, 2, half, *rest)
    return array.reshape(shape).swapaxes(1, 2).reshape(array.shape)
