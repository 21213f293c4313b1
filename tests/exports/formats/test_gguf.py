"""GGUF files, read by gguf's reader and by our own, against arithmetic and mlx-lm."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.exports import gguf_families, gguf_tokenizer, merging
from comigs_mlx.exports.formats import gguf as plugin
from comigs_mlx.exports.job import Job
from comigs_mlx.model.base import load_base
from comigs_mlx.model.fusing import plain_weights
from comigs_mlx.model.gguf import model_weights
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests import tiny
from tests.model import families
from tests.model.naive import randomise

gguf = pytest.importorskip("gguf")
TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])
FAMILIES = [f for f in gguf_families.FAMILIES if f in families.CONFIGS]


@pytest.fixture
def job(tiny_folder):
    def make(family, dtype="float32"):
        base = load_base(str(tiny_folder(family)))
        mixture = Mixture(base.model, ExpertOptions(rank=2))
        randomise(mixture.model)
        adapter = merging.merge(mixture, [[0.3, 0.7]] * 2, "stack")
        return Job(base, mixture, adapter, "mine", dtype)

    return make


@pytest.fixture
def written(job, tmp_path):
    def write(family, dtype="float32"):
        made = job(family, dtype)
        plugin.check(made)
        plugin.write(made, tmp_path)
        return made, gguf.GGUFReader(tmp_path / plugin.file_name(made))

    return write


def value(reader, name):
    return reader.fields[name].contents()


class TestFile:
    @pytest.mark.parametrize("dtype", ["float32", "q8_0"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_computes_what_the_merged_adapter_does(
        self, written, tmp_path, family, dtype
    ):
        made, reader = written(family, dtype)
        with merging.in_place(made.mixture, made.adapter):
            expected, _ = made.mixture(TOKENS)
        with plugin.read_back(made, tmp_path) as model, model.selected("base"):
            logits, _ = model(TOKENS)
        error = np.square(np.array(logits - expected)).mean()
        size = np.square(np.array(expected)).mean()
        assert np.sqrt(error / size) < (2e-6 if dtype == "float32" else 6e-2)
        kinds = {t.tensor_type.name for t in reader.tensors if len(t.shape) > 1}
        assert kinds == {"F32" if dtype == "float32" else "Q8_0"}
        assert {t.tensor_type.name for t in reader.tensors if len(t.shape) == 1} == {
            "F32"
        }

    def test_our_own_reader_gets_every_weight_of_a_llama(self, written, tmp_path):
        made, _ = written("llama")
        arrays, _ = mx.load(str(tmp_path / "mine-f32.gguf"), return_metadata=True)
        config = made.base.config
        read = model_weights(arrays, config)
        expected = dict(plain_weights(made.mixture, made.pairs, mx.float32))
        assert read.keys() == expected.keys()
        for name, array in expected.items():
            assert mx.array_equal(read[name], array), name

    def test_what_llama_cpp_reads(self, written):
        _, reader = written("qwen3")
        config = families.CONFIGS["qwen3"]
        for name, expected in {
            "general.architecture": "qwen3",
            "qwen3.context_length": config["max_position_embeddings"],
            "qwen3.embedding_length": config["hidden_size"],
            "qwen3.feed_forward_length": config["intermediate_size"],
            "qwen3.block_count": 2,
            "qwen3.attention.head_count": 4,
            "qwen3.attention.head_count_kv": 2,
            "qwen3.attention.key_length": 8,
            "qwen3.rope.freq_base": 10000.0,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.eos_token_id": 256,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": tiny.CHATML,
        }.items():
            assert value(reader, name) == expected, name
        assert value(reader, "qwen3.attention.layer_norm_rms_epsilon") == (
            pytest.approx(1e-5)
        )
        tokens = value(reader, "tokenizer.ggml.tokens")
        assert tokens[256:] == tiny.SPECIALS
        assert len(tokens) == tiny.VOCABULARY
        types = value(reader, "tokenizer.ggml.token_type")
        assert types == [gguf_tokenizer.NORMAL] * 256 + [gguf_tokenizer.CONTROL] * 3

    def test_a_modelfile_lies_beside_it(self, written, tmp_path):
        written("llama", "q8_0")
        lines = (tmp_path / "Modelfile").read_text().splitlines()
        assert lines[1] == "FROM ./mine-q8_0.gguf"
        begin = (
            'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>'
        )
        assert lines[2].startswith(begin)
        assert lines[-1] == f'PARAMETER stop "{tiny.EOS}"'

    def test_a_family_that_llama_cpp_s_names_are_not_known_of(self, job):
        with pytest.raises(UnsupportedModel) as error:
            plugin.check(job("gpt2"))
        assert "'gpt2' cannot be written to GGUF here, llama, " in str(error.value)
        assert "--format fused" in str(error.value)


class TestFamilies:
    def test_llama_s_rows_alternate_between_the_halves_of_a_head(self):
        config = {**families.CONFIGS["llama"], "model_type": "llama"}
        name = "model.layers.0.self_attn.{}.weight"
        rows = np.arange(32.0)[:, None]
        order = [0, 4, 1, 5, 2, 6, 3, 7]
        expected = np.concatenate([np.array(order) + 8 * head for head in range(4)])
        convert = gguf_families.converter(config)
        there = convert(name.format("q_proj"), rows)
        assert there[:, 0].tolist() == expected.tolist()
        assert convert(name.format("k_proj"), rows[:16])[:, 0].tolist() == (
            expected[:16].tolist()
        )
        assert np.array_equal(convert(name.format("v_proj"), rows), rows)
        back = gguf_families.converter(config, undo=True)
        assert np.array_equal(back(name.format("q_proj"), there), rows)

    def test_gemma_s_norms(self):
        config = {**families.CONFIGS["gemma"], "model_type": "gemma"}
        convert = gguf_families.converter(config)
        ones = np.ones(4)
        for name in ("model.norm.weight", "model.layers.0.input_layernorm.weight"):
            assert convert(name, ones).tolist() == [2.0] * 4
        assert convert("model.layers.0.mlp.up_proj.weight", ones).tolist() == [1.0] * 4

    def test_llama_3_s_factors_are_mlx_lm_s(self):
        from mlx_lm.models.rope_utils import Llama3RoPE

        scaling = {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        config = {
            **families.CONFIGS["llama"],
            "head_dim": 64,
            "rope_theta": 500000.0,
            "rope_scaling": scaling,
        }
        rope = Llama3RoPE(64, base=500000.0, scaling_config=scaling)
        plain = 500000.0 ** (np.arange(0, 64, 2) / 64)
        factors = gguf_families.rope_factors(config)
        np.testing.assert_allclose(factors, np.array(rope._freqs) / plain, rtol=1e-4)
        assert factors[0] == 1.0
        assert factors[-1] == 32.0

    @pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
    def test_other_stretching_is_refused(self, name):
        given = {"model_type": "llama", name: {"rope_type": "yarn", "factor": 4.0}}
        with pytest.raises(UnsupportedModel, match="stretched by 'yarn'"):
            gguf_families.family_of(given)


class TestTokenizer:
    @pytest.mark.parametrize(
        ("parts", "rule"),
        [
            ([{"type": "ByteLevel", "use_regex": True}], "gpt-2"),
            (
                [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}],
                "smollm",
            ),
            *(
                (
                    [
                        {"type": "Split", "pattern": {"Regex": expression}},
                        {"type": "ByteLevel", "use_regex": False},
                    ],
                    rule,
                )
                for expression, rule in gguf_tokenizer.SPLITS.items()
            ),
        ],
    )
    def test_the_rule_that_splits_text_into_words(self, parts, rule):
        pre = {"type": "Sequence", "pretokenizers": parts} if parts[1:] else parts[0]
        assert gguf_tokenizer.split_rule({"pre_tokenizer": pre}) == rule

    def test_an_unknown_rule_is_refused(self):
        parts = [{"type": "Split", "pattern": {"Regex": r"\w+"}}, {"type": "ByteLevel"}]
        pre = {"type": "Sequence", "pretokenizers": parts}
        with pytest.raises(UnsupportedModel, match="by Split, ByteLevel in a way"):
            gguf_tokenizer.split_rule({"pre_tokenizer": pre})

    def test_rows_without_a_token_are_unused(self, tiny_folder):
        base = load_base(str(tiny_folder()))
        made = gguf_tokenizer.vocabulary(base, tiny.VOCABULARY + 2)
        assert made.tokens[-2:] == ["[PAD259]", "[PAD260]"]
        assert made.types[-2:] == [gguf_tokenizer.UNUSED] * 2
        with pytest.raises(UnsupportedModel, match="ids up to 258 and the model 200"):
            gguf_tokenizer.vocabulary(base, 200)

    def test_sentencepiece_merges_by_score_in_the_order_of_the_merges(self):
        merges = [["a", "b"], ["ab", "c"], ["b", "c"]]
        tokens = ["a", "b", "c", "ab", "bc", "abc"]
        scores = gguf_tokenizer._scores(tokens, merges)
        assert scores == [-3.0, -3.0, -3.0, 0.0, -2.0, -1.0]
