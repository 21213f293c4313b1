"""Converts a GGUF file of the llama family to an mlx-lm model folder.

MLX reads GGUF itself; this module converts llama.cpp's names, row order and metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import tensors
from comigs_mlx.files import write_json

if TYPE_CHECKING:
    import mlx.core as mx
    from tokenizers import Tokenizer

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
GROUP = 32
"""The weights that share one scale in GGUF's quantised blocks."""

SPECIAL = 3
"""GGUF's token type of control tokens."""

LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def convert(gguf: Path, folder: Path) -> None:
    """Write the llama model of a GGUF file as an mlx-lm model folder.

    Args:
        gguf: The file, whose tensors are floats or 4- or 8-bit blocks, with a
            byte-level BPE vocabulary in its metadata.
        folder: An existing folder, which gets the files named in `FILES`.
    """
    import mlx.core as mx

    # On the CPU everywhere: participants compare fingerprints of these weights.
    with mx.stream(mx.cpu):
        loaded: Any = mx.load(str(gguf), return_metadata=True)  # typed as a union
        arrays, metadata = loaded
        config = model_config(arrays, metadata)
        weights = model_weights(arrays, config)
        tensors.save(folder / "model.safetensors", weights, {"format": "mlx"})
    write_json(folder / "config.json", config)
    tokenizer(metadata).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(metadata))


def model_config(arrays: dict[str, mx.array], metadata: dict[str, Any]) -> Any:
    """Make the model's `config.json` from GGUF metadata."""

    def number(key: str) -> Any:
        value = metadata[key].item()
        # GGUF stores 1e-5 as the nearest float32; 7 digits give the number meant.
        return float(f"{value:.7g}") if isinstance(value, float) else value

    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in arrays,
        "hidden_size": number("llama.embedding_length"),
        "intermediate_size": number("llama.feed_forward_length"),
        "num_hidden_layers": number("llama.block_count"),
        "num_attention_heads": number("llama.attention.head_count"),
        "num_key_value_heads": number("llama.attention.head_count_kv"),
        "head_dim": number("llama.rope.dimension_count"),
        "max_position_embeddings": number("llama.context_length"),
        "rms_norm_eps": number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": number("llama.rope.freq_base"),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "bos_token_id": number("tokenizer.ggml.bos_token_id"),
        "eos_token_id": number("tokenizer.ggml.eos_token_id"),
        "pad_token_id": number("tokenizer.ggml.padding_token_id"),
    }


def model_weights(
    arrays: dict[str, mx.array], config: dict[str, Any]
) -> dict[str, mx.array]:
    """Return the tensors of a GGUF llama under mlx-lm's names, in float32."""
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    weights = {}
    for name in arrays:
        if not name.endswith(".weight"):
            continue
        *block, kind, _ = name.split(".")  # blk.3.attn_q.weight, output_norm.weight
        weight = dequantised(arrays, name.removesuffix(".weight"))
        if kind in heads:
            weight = halves(weight, config[heads[kind]])
        path = f"model.layers.{block[1]}.{LINEARS[kind]}" if block else OUTER[kind]
        weights[f"{path}.weight"] = weight
    return weights


def dequantised(arrays: dict[str, mx.array], path: str) -> mx.array:
    """Return the weight at `path`, `[out, in]` or `[dims]`, in float32.

    With float32 scales each value is one exact product and one rounded sum, hence the
    same bits on every device.
    """
    import mlx.core as mx

    weight = arrays[f"{path}.weight"]
    if f"{path}.scales" not in arrays:
        return weight.astype(mx.float32)
    scales = arrays[f"{path}.scales"].astype(mx.float32)  # [out, in / 32]
    biases = arrays[f"{path}.biases"].astype(mx.float32)
    bits = weight.shape[-1] // scales.shape[-1]  # 32 bits a word, 32 weights a group
    return mx.dequantize(weight, scales, biases, group_size=GROUP, bits=bits)


def halves(weight: mx.array, heads: int) -> mx.array:
    """Undo llama.cpp's row order of a query or key weight `[heads * dims, in]`.

    llama.cpp rotates neighbouring rows of a head, mlx-lm a row of the first half with
    one of the second half.
    """
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)


def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """Make the byte-level BPE tokenizer of GGUF metadata, which splits single
    digits.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"].tolist()
    merges = [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    result = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    result.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    special = (t for t, kind in zip(tokens, types, strict=True) if kind == SPECIAL)
    result.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    return result


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """Make the `tokenizer_config.json` of GGUF metadata."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {k: metadata[f"tokenizer.ggml.{n}_token_id"].item() for k, n in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"].item(),
        **{f"{kind}_token": tokens[i] for kind, i in ids.items()},
    }
