"""A small base model of our own: shape, first weights, tokenizer and files.

The architecture is GPT-2 (Radford et al. 2019) as mlx-lm implements it, with its
initialisation: N(0, 0.02^2), projections into the residual stream divided by
sqrt(2 * blocks), biases 0, output embedding tied to the input's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from comigs_mlx import tensors
from comigs_mlx.files import replacing_dir, write_json
from comigs_mlx.model.params import flatten

EOS = "<|endoftext|>"
STD = 0.02


@dataclass(frozen=True)
class BaseSize:
    """The size of a model.

    Attributes:
        blocks: The number of transformer blocks of the model.
        width: The size of a token's vector.
        heads: The number of attention heads; `width` is a multiple of it.
        context: The most tokens in a sequence.
        vocabulary: The most tokens of the tokenizer, EOS and the 256 bytes among them.
    """

    blocks: int = 6
    width: int = 256
    heads: int = 4
    context: int = 256
    vocabulary: int = 4096


def config(shape: BaseSize, eos: int) -> dict[str, Any]:
    """Make the model's `config.json`, with the names of Hugging Face's GPT-2."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": shape.blocks,
        "n_embd": shape.width,
        "n_head": shape.heads,
        "n_ctx": shape.context,
        "n_positions": shape.context,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": True,
        "bos_token_id": eos,
        "eos_token_id": eos,
    }


def build(shape: BaseSize, seed: int) -> nn.Module:
    """Make a model with its first weights; equal seeds give equal bits."""
    from mlx_lm.models.gpt2 import Model, ModelArgs

    model: nn.Module = Model(ModelArgs.from_dict(config(shape, 0)))
    rng = np.random.default_rng(seed)
    weights = [
        (path, _initial_weight(path, array.shape, shape.blocks, rng))
        for path, array in sorted(flatten(model.parameters()).items())
    ]
    model.load_weights(weights)
    return model


def _initial_weight(
    path: str, size: tuple[int, ...], blocks: int, rng: np.random.Generator
) -> mx.array:
    if len(size) == 1:  # layer norms and biases
        return mx.ones(size) if path.endswith("weight") else mx.zeros(size)
    std = STD / (2 * blocks) ** 0.5 if "c_proj" in path.split(".") else STD
    return mx.array(std * rng.standard_normal(size, np.float32))


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE of at most `vocabulary` tokens on `texts`; EOS is 0.

    Returns:
        A fast tokenizer of transformers.
    """
    from mlx_lm.tokenizer_utils import PreTrainedTokenizerFast
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=EOS, eos_token=EOS)


def write(
    folder: Path,
    model: nn.Module,
    shape: BaseSize,
    tokenizer: Any,
    notes: dict[str, Any],
) -> None:
    """Write an mlx-lm model folder, whole or not at all.

    Args:
        folder: The folder of the model; one that is there already is replaced.
        model: The model that `build` made.
        shape: The size that it was built with.
        tokenizer: The tokenizer that `train_tokenizer` made.
        notes: The record of how the model was made, for `training.json`.
    """
    with replacing_dir(folder) as temporary:
        file = temporary / "model.safetensors"
        tensors.save(file, flatten(model.parameters()), {"format": "mlx"})
        write_json(temporary / "config.json", config(shape, tokenizer.eos_token_id))
        write_json(temporary / "training.json", notes)
        tokenizer.backend_tokenizer.save(str(temporary / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": EOS,
            "eos_token": EOS,
            "clean_up_tokenization_spaces": False,
        }
        (temporary / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
