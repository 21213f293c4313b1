"""An expert that begins as an adapter of mlx-lm or PEFT, against what mlx-lm says."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from safetensors.numpy import load_file, save_file

from comigs_mlx.config import from_dict
from comigs_mlx.errors import ConfigError
from comigs_mlx.messages import quiet
from comigs_mlx.model import params
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, TrainConfig
from comigs_mlx.runs import init_adapter
from comigs_mlx.runs.session import session
from comigs_mlx.training.records import Boundary
from tests import tiny

TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])
KEYS = {
    "llama": ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"],
}


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """(family, keys) -> the folder of mlx-lm's adapter, and the logits with it."""

    def make(family="llama", rank=2, scale=20.0, keys=None):
        model = load_base(str(tiny_folder(family))).model
        given = {"rank": rank, "scale": scale, "dropout": 0.0}
        given["keys"] = KEYS[family] if keys is None else keys
        linear_to_lora_layers(model, 2, given)
        mx.random.seed(7)
        arrays = {
            name: 0.1 * mx.random.normal(array.shape)
            for name, array in tree_flatten(model.trainable_parameters())
        }
        model.load_weights(list(arrays.items()), strict=False)
        folder = tmp_path / "adapter"
        folder.mkdir()
        mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
        config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": given}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder, model(TOKENS)

    return make


@pytest.fixture
def as_peft(adapter):
    """The same as PEFT writes it, with a rank and a strength of their own for some."""

    def make(family="llama", rslora=False):
        folder, logits = adapter(family)
        arrays = load_file(folder / "adapters.safetensors")
        begin = ("model.h.", "transformer.h.") if family == "gpt2" else ("", "")
        renamed = {}
        for name, array in arrays.items():
            path, factor = name.rsplit(".lora_", 1)
            hf = path.replace(*begin, 1)
            key = f"base_model.model.{hf}.lora_{factor.upper()}.weight"
            halved = 0.5 if factor == "b" and path.endswith(KEYS[family][1]) else 1.0
            renamed[key] = np.ascontiguousarray(halved * array.T)
        (folder / "adapters.safetensors").unlink()
        save_file(renamed, folder / "adapter_model.safetensors")
        alpha = 20.0 * (2**0.5 if rslora else 2)
        config = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": alpha,
            "alpha_pattern": {KEYS[family][1]: 2 * alpha},
            "use_rslora": rslora,
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder, logits

    return make


@pytest.fixture
def fresh(tiny_folder):
    def make(family="llama", **options):
        base = load_base(str(tiny_folder(family)))
        return base, Mixture(base.model, ExpertOptions(**{"rank": 4, **options}))

    return make


def begin(base, mixture, folder, role="specialist", shared=False):
    said = []
    init_adapter.begin(mixture, base, str(folder), role, shared, said.append)
    return said


class TestEqualLogits:
    @pytest.mark.parametrize("family", KEYS)
    @pytest.mark.parametrize("role", ["generalist", "specialist"])
    def test_of_mlx_lm(self, adapter, fresh, family, role):
        folder, expected = adapter(family)
        base, mixture = fresh(family)
        before, _ = mixture(TOKENS)
        assert mx.abs(before - expected).max() > 1e-2
        said = begin(base, mixture, folder, role)
        with mixture.selected(role):
            logits, _ = mixture(TOKENS)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        assert said[0] == f"the {role} begins as {folder}: 6 pairs"
        assert "2 of its pairs are on attention linears" in str(said[1])

    @pytest.mark.parametrize(("family", "rslora"), [("llama", True), ("gpt2", False)])
    def test_of_peft(self, as_peft, fresh, family, rslora):
        folder, expected = as_peft(family, rslora)
        base, mixture = fresh(family)
        begin(base, mixture, folder)
        with mixture.selected("specialist"):
            logits, _ = mixture(TOKENS)
        np.testing.assert_allclose(logits, expected, atol=1e-5)

    def test_only_the_first_expert_of_the_role_and_what_is_added_can_learn(
        self, adapter, fresh
    ):
        folder, _ = adapter(keys=["mlp.up_proj"])
        base, mixture = fresh(specialists=2)
        before = params.flatten(params.select(mixture.model, params.EXPERTS))
        begin(base, mixture, folder)
        after = params.flatten(params.select(mixture.model, params.EXPERTS))
        changed = {n for n in before if not mx.array_equal(before[n], after[n])}
        path = "model.layers.{}.mlp.up_proj.specialist.lora_{}"
        assert changed == {path.format(i, f) for i in (0, 1) for f in "ab"}
        for name in changed:
            assert mx.array_equal(before[name][1], after[name][1])
        a, b = (after[path.format(0, f)][0] for f in "ab")  # [in, 4], [4, out]
        assert mx.array_equal(a[:, 2:], before[path.format(0, "a")][0][:, 2:])
        assert not b[2:].any().item()
        assert a[:, 2:].all().item()  # a zero in both would have no gradient


class TestRefused:
    def refused(self, base, mixture, folder, **given):
        before = params.flatten(params.select(mixture.model, params.EXPERTS))
        with pytest.raises(ConfigError) as error:
            begin(base, mixture, folder, **given)
        after = params.flatten(params.select(mixture.model, params.EXPERTS))
        assert all(mx.array_equal(before[n], after[n]) for n in before)
        return str(error.value)

    def test_a_larger_rank_and_linears_that_carry_no_pair(self, adapter, fresh):
        folder, _ = adapter(rank=8)
        base, mixture = fresh(num_layers=1, attention_lora=False)
        strangers, rank = self.refused(base, mixture, folder).splitlines()
        assert "4 linears that carry none in this run (model.layers.0.mlp." in strangers
        assert "leave out --no-attention-lora or adapt all blocks" in strangers
        assert rank.endswith("has rank 8, this run 4: pass --rank 8")

    def test_another_base(self, adapter, fresh):
        folder, _ = adapter(keys=["mlp.up_proj"])
        file = folder / "adapters.safetensors"
        arrays = load_file(file)
        save_file({n: np.tile(a, (2, 1)) for n, a in arrays.items()}, file)
        base, mixture = fresh()
        text = self.refused(base, mixture, folder)
        assert "a pair for 64 inputs and 64 outputs on model.layers.0.mlp.up" in text
        assert "trained on another base model" in text

    def test_numbers_that_are_none(self, adapter, fresh):
        folder, _ = adapter(keys=["mlp.up_proj"])
        file = folder / "adapters.safetensors"
        save_file({n: a * np.float32("nan") for n, a in load_file(file).items()}, file)
        assert "that are no numbers" in self.refused(*fresh(), folder)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"fine_tune_type": "dora"}, "is a dora adapter: only LoRA"),
            ({"lora_parameters": {}}, "damaged or incomplete ('scale' is missing)"),
        ],
    )
    def test_what_is_no_plain_lora_of_mlx_lm(self, adapter, fresh, change, text):
        folder, _ = adapter(keys=["mlp.up_proj"])
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        assert text in self.refused(*fresh(), folder)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"use_dora": True}, "has use_dora: only plain LoRA"),
            ({"bias": "all", "modules_to_save": ["lm_head"]}, "modules_to_save, bias:"),
            ({"peft_type": "IA3"}, "has peft_type IA3: only plain LoRA"),
        ],
    )
    def test_what_is_no_plain_lora_of_peft(self, as_peft, fresh, change, text):
        folder, _ = as_peft()
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        assert text in self.refused(*fresh(), folder)

    def test_a_pickle_and_nothing_at_all(self, fresh, tmp_path):
        base, mixture = fresh()
        (tmp_path / "adapter_model.bin").write_bytes(b"")
        assert "can run code when it is read" in self.refused(base, mixture, tmp_path)
        (tmp_path / "adapter_model.bin").unlink()
        assert "is no LoRA adapter: expected" in self.refused(base, mixture, tmp_path)
        missing = tmp_path / "no such one"
        assert "no such folder here" in self.refused(base, mixture, missing)

    def test_attention_pairs_would_leave_the_device_in_a_federation(
        self, adapter, fresh
    ):
        folder, _ = adapter()
        text = self.refused(*fresh(), folder, shared=True)
        assert "belong to the generalist that the federation replaces" in text

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"specialists": 0}, "--init-as specialist: there is none"),
            (
                {"init_as": "generalist", "federation": "x", "participant": "ann"},
                "the federation's generalist takes its place",
            ),
            (
                {
                    "specialist_from": "generalist",
                    "federation": "x",
                    "participant": "ann",
                },
                "both say what the specialist begins as",
            ),
        ],
    )
    def test_options_that_contradict(self, given, text):
        with pytest.raises(ConfigError, match=text):
            from_dict(TrainConfig, {"init_adapter": "x", **given})


def test_a_run_begins_so_and_goes_on_without_the_adapter(
    adapter, tiny_folder, text_folder, tmp_path
):
    folder, expected = adapter()
    paths = {"model": str(tiny_folder()), "data": str(text_folder)}
    given = {**tiny.TRAINING, **paths, "run": str(tmp_path / "run")}
    given["init_adapter"] = str(folder)

    def logits(**changes):
        with session(from_dict(TrainConfig, {**given, **changes}), quiet) as opened:
            mixture = opened.trainer.mixture
            with mixture.selected("specialist"):
                found, _ = mixture(TOKENS)
            opened.save(Boundary(0, None))
        return found

    np.testing.assert_allclose(logits(), expected, atol=1e-5)
    shutil.rmtree(folder)
    np.testing.assert_allclose(logits(resume=True), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="no such folder here"):
        logits(run=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
