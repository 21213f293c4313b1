"""Tiny random models of the families that are tested, by mlx-lm's model type."""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import _get_classes

VOCABULARY = 64

LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
GPT = {"n_ctx": 128, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}

CONFIGS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "gemma": {**LLAMA, "head_dim": 8},
    "gemma2": {
        **LLAMA,
        "head_dim": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 8.0,
    },
    "gemma3_text": {
        **LLAMA,
        "head_dim": 8,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
    },
    "phi": {
        **LLAMA,
        "num_key_value_heads": 4,
        "partial_rotary_factor": 0.5,
        "layer_norm_eps": 1e-5,
    },
    "phi3": LLAMA,
    "olmo2": LLAMA,
    "smollm3": {**LLAMA, "no_rope_layer_interval": 2},
    "starcoder2": {**LLAMA, "norm_epsilon": 1e-5},
    "gpt2": {**GPT, "layer_norm_epsilon": 1e-5, "vocab_size": VOCABULARY},
    "gptj": {**GPT, "rotary_dim": 4, "vocab_size": VOCABULARY},
    "plamo": {**LLAMA, "num_key_value_heads": 4, "n_shared_head": 1},
    "gpt_neox": {
        **LLAMA,
        "layer_norm_eps": 1e-5,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.5,
        "use_parallel_residual": True,
    },
    "cohere": {**LLAMA, "layer_norm_eps": 1e-5, "logit_scale": 0.5},
    "granite": {
        **LLAMA,
        "logits_scaling": 1.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_bias": False,
        "mlp_bias": True,
    },
    "internlm2": {**LLAMA, "bias": True},
    "minicpm": {**LLAMA, "dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 1.0},
}

MIXTURES_OF_EXPERTS = {
    "mixtral": {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1},
    "olmoe": {**LLAMA, "num_experts": 2, "num_experts_per_tok": 1},
    "qwen3_moe": {
        **LLAMA,
        "head_dim": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
}


def build(
    family: str, bits: int | None = None, seed: int = 0, **changes: int
) -> nn.Module:
    """A random model of `family`, its linears and embeddings in `bits` if given."""
    mx.random.seed(seed)
    config = {**CONFIGS, **MIXTURES_OF_EXPERTS}[family] | changes
    model_class, arguments = _get_classes({"model_type": family})
    model = model_class(arguments.from_dict({"model_type": family, **config}))
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
    model.eval()
    mx.eval(model.parameters())
    return model
