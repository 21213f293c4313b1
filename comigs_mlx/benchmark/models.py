"""The base models that can be measured: any that can be trained, and random ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model.base import load_base

RANDOM: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": 50257,
    },
    "tiny": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 64,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
}
"""mlx-lm's configuration by name. Speed does not depend on the values of weights."""


def base_model(
    name: str, report: Callable[[str], None] = lambda sentence: None
) -> nn.Module:
    """Load a base model, frozen and in evaluation mode, with its weights in memory.

    Args:
        name: A key of `RANDOM`, or an id that `load_base` takes.
        report: Receives a sentence before each step that takes time.

    Raises:
        ModelError: If the model cannot be found, fetched or loaded.
    """
    return _random(RANDOM[name]) if name in RANDOM else load_base(name, report).model


def _random(config: dict[str, Any]) -> nn.Module:
    mx.random.seed(0)
    family = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model: nn.Module = family.Model(family.ModelArgs.from_dict(config))
    model.eval()
    model.freeze()
    mx.eval(model.parameters())
    return model
