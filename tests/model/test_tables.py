"""Nothing reads past a base model's tables: token ids and positions are compared."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.model.families as families
from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.tables import Tables, tables_of
from comigs_mlx.options import ExpertOptions


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", families.CONFIGS)
def test_sizes_are_those_of_the_arrays(family, bits):
    model = families.build(family, bits)
    expected = 128 if family == "gpt2" else None
    assert tables_of(model) == Tables(families.VOCABULARY, expected)


def test_looking_leaves_the_model_as_it_was():
    model = families.build("gpt2")
    before = [(path, type(module)) for path, module in model.named_modules()]
    tables_of(model)
    assert [(path, type(module)) for path, module in model.named_modules()] == before


def test_sizes_are_the_same_with_experts_attached():
    model = families.build("gpt2")
    bare = tables_of(model)
    mixture = Mixture(model, ExpertOptions(rank=2))
    assert mixture.tables == tables_of(model) == bare


class Offset(nn.Module):
    """Positions from row 2 on, as in OPT; head and embedding of sizes of their own."""

    def __init__(self, rows, logits):
        super().__init__()
        self.words = nn.Embedding(rows, 4)
        self.places = nn.Embedding(10, 4)
        self.head = nn.Linear(4, logits)

    def __call__(self, tokens):
        places = mx.arange(tokens.shape[1]) + 2
        return self.head(self.words(tokens + 0) + self.places(places))


def test_an_offset_of_positions_is_counted():
    assert tables_of(Offset(20, 20)).positions == 8


@pytest.mark.parametrize(("rows", "logits"), [(20, 30), (30, 20)])
def test_the_smaller_of_embedding_and_head_decides(rows, logits):
    assert tables_of(Offset(rows, logits)).vocabulary == 20


def test_a_model_that_cannot_be_run_has_no_tables_known():
    assert tables_of(nn.Linear(5, 3)) == Tables()
    Tables().check_tokens([10**9])
    Tables().check_length(10**9)


@settings(deadline=None)  # other work on the machine is no fault
@given(st.lists(st.integers(-3, 12), max_size=5))
def test_tokens_pass_exactly_where_all_have_a_row(ids):
    tables = Tables(vocabulary=10)
    if all(0 <= each < 10 for each in ids):
        tables.check_tokens(np.array(ids, np.int32))
        tables.check_tokens(ids)
        return
    worst = min(ids) if min(ids) < 0 else max(ids)
    with pytest.raises(ModelError, match=f"prompt has token id {worst}, .* to 9:"):
        tables.check_tokens(ids, "the prompt")


def test_the_last_position_can_be_read_and_the_next_cannot():
    tables = Tables(positions=128)
    tables.check_length(128)
    with pytest.raises(ConfigError, match="prompt of 129 tokens .* 128 positions: cut"):
        tables.check_length(129, "the prompt", "cut it")


def test_a_mixture_reads_up_to_the_last_position_and_not_beyond():
    mixture = Mixture(families.build("gpt2"), ExpertOptions(rank=2))
    full = mx.zeros((1, 128), mx.int32)
    for read in (mixture, mixture.body):
        assert read(full)[0].shape[1] == 128
        with pytest.raises(ConfigError, match="129 tokens"):
            read(mx.zeros((1, 129), mx.int32))


def test_what_a_cache_holds_counts_too():
    from mlx_lm.models.cache import make_prompt_cache

    mixture = Mixture(families.build("gpt2"), ExpertOptions(rank=2))
    cache = make_prompt_cache(mixture.model)
    mixture(mx.zeros((1, 127), mx.int32), cache=cache)
    mixture(mx.zeros((1, 1), mx.int32), cache=cache)
    with pytest.raises(ConfigError, match="129 tokens"):
        mixture(mx.zeros((1, 1), mx.int32), cache=cache)


def test_a_base_knows_its_context(tiny_folder):
    rope, learned = load_base(str(tiny_folder())), load_base(str(tiny_folder("gpt2")))
    assert rope.tables.positions is None
    assert rope.context == rope.trained_context == 128
    assert learned.context == learned.tables.positions == 128


def test_the_table_counts_where_the_configuration_promises_more(tiny_folder, tmp_path):
    base = load_base(str(tiny_folder("gpt2")))
    base.config["n_positions"] = 4096
    assert base.context == 128


def test_a_rope_base_is_noted_beyond_its_context(tiny_folder):
    base = load_base(str(tiny_folder()))
    assert base.check_length(128, "--seq-len") == []
    (note,) = base.check_length(129, "--seq-len", "lower it")
    assert "129 tokens is longer than the 128" in note
    assert note.endswith("lower it")


def test_a_tokenizer_with_more_ids_than_rows_is_noted(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "base")
    weights = mx.load(str(folder / "model.safetensors"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:256]
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 256}
    (folder / "config.json").write_text(json.dumps(config))
    said = []
    base = load_base(str(folder), said.append)
    assert [line for line in said if "ids up to 258" in line and "below 256" in line]
    with pytest.raises(ModelError, match="token id 256"):
        base.check_tokens(base.tokenizer.encode("a<|endoftext|>"))


def test_an_ordinary_base_is_not_noted(tiny_folder):
    said = []
    load_base(str(tiny_folder()), said.append)
    assert not [line for line in said if "note" in line]
