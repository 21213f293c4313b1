"""GGUF conversion against a model whose weights are known."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from comigs_mlx.model import gguf
from comigs_mlx.model.base import load_base

HEADS, KV_HEADS, DIMS, WIDTH, HIDDEN, BLOCKS = 4, 2, 8, 32, 48, 2
TOKENS = ["<|end|>", "<|user|>", *sorted(ByteLevel.alphabet()), "he", "Ġhe"]


def llama_cpp_rows(weight, heads):
    """llama.cpp's row order: row i of the first half beside row i of the second."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return mx.contiguous(rows.swapaxes(1, 2).reshape(weight.shape))


def metadata():
    def number(value):
        return mx.array(value, mx.uint32)

    return {
        "general.architecture": "llama",
        "llama.embedding_length": number(WIDTH),
        "llama.feed_forward_length": number(HIDDEN),
        "llama.block_count": number(BLOCKS),
        "llama.attention.head_count": number(HEADS),
        "llama.attention.head_count_kv": number(KV_HEADS),
        "llama.rope.dimension_count": number(DIMS),
        "llama.context_length": number(64),
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(12345.0),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": ["h e", "Ġ he"],
        "tokenizer.ggml.token_type": mx.array(
            [3, 3] + [1] * (len(TOKENS) - 2), mx.int32
        ),
        "tokenizer.ggml.bos_token_id": number(1),
        "tokenizer.ggml.eos_token_id": number(0),
        "tokenizer.ggml.unknown_token_id": number(0),
        "tokenizer.ggml.padding_token_id": number(0),
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


@pytest.fixture(scope="module")
def original():
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(3)
    return Model(
        ModelArgs(
            model_type="llama",
            hidden_size=WIDTH,
            num_hidden_layers=BLOCKS,
            intermediate_size=HIDDEN,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=DIMS,
            rms_norm_eps=1e-5,
            vocab_size=len(TOKENS),
            rope_theta=12345.0,
        )
    )


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    """The original written the way llama.cpp does, and converted back."""
    arrays = {
        "token_embd.weight": original.model.embed_tokens.weight,
        "output_norm.weight": original.model.norm.weight,
    }
    for i, block in enumerate(original.layers):
        for name, path in gguf.LINEARS.items():
            module = block
            for part in path.split("."):
                module = module[part]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
            weight = module.weight
            arrays[f"blk.{i}.{name}.weight"] = (
                llama_cpp_rows(weight, heads) if heads else weight
            )
    folder = tmp_path_factory.mktemp("converted")
    mx.save_gguf(str(folder / "model.gguf"), arrays, metadata())
    gguf.convert(folder / "model.gguf", folder)
    return load_base(str(folder))


def test_converted_model_computes_the_same(original, converted):
    tokens = mx.array([[5, 80, 17, 200, 3]])
    assert mx.array_equal(original(tokens), converted.model(tokens))


def test_config_comes_from_the_metadata(converted):
    config = converted.config
    assert config["rope_theta"] == 12345.0
    assert config["rms_norm_eps"] == 1e-5  # not float32's 9.99999974e-06
    assert (config["vocab_size"], config["eos_token_id"]) == (len(TOKENS), 0)
    assert config["tie_word_embeddings"] is True


def test_untied_output_is_kept():
    arrays = {"output.weight": mx.ones((3, 2))}
    assert gguf.model_config(arrays, metadata())["tie_word_embeddings"] is False
    assert list(gguf.model_weights(arrays, {})) == ["lm_head.weight"]


def test_row_order_turns_interleaved_rotation_into_halves():
    mx.random.seed(0)
    weight, x = mx.random.normal((16, 16)), mx.random.normal((1, 5, 16))

    def scores(weight, traditional):
        heads = (x @ weight.T).reshape(1, 5, 2, 8).swapaxes(1, 2)
        rotated = nn.RoPE(8, traditional=traditional)(heads)
        return rotated @ rotated.swapaxes(-1, -2)

    ours = scores(gguf.halves(weight, 2), traditional=False)
    assert mx.allclose(ours, scores(weight, traditional=True), atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_dequantised_exactly(bits):
    mx.random.seed(bits)
    original = mx.random.normal((6, 64)).astype(mx.float16)
    words, scales, biases = mx.quantize(original, group_size=32, bits=bits)
    arrays = {"w.weight": words, "w.scales": scales, "w.biases": biases}
    values = np.array(words).view(np.uint8)  # little-endian: first value lowest
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1)
    values = values.reshape(6, 2, 32)
    scales, biases = (
        np.array(a.astype(mx.float32))[..., None] for a in (scales, biases)
    )
    result = gguf.dequantised(arrays, "w")
    assert result.dtype == mx.float32
    assert np.array_equal(np.array(result), (values * scales + biases).reshape(6, 64))


def test_tokenizer_splits_digits_merges_and_keeps_special_tokens(converted):
    tokenizer = converted.tokenizer

    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokenizer.encode(text))

    assert pieces("he he12") == ["he", "Ġhe", "1", "2"]
    assert pieces("<|user|>he<|end|>") == ["<|user|>", "he", "<|end|>"]
    assert tokenizer.decode(tokenizer.encode("é 🎉\n\tx  ")) == "é 🎉\n\tx  "
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|user|>", "<|end|>")
    message = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "hello"
