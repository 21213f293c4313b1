"""PEFT's names and formula, by an independent reading of its file format.

Where torch and PEFT are installed, the adapter is also loaded by them.
"""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.exports import merging
from comigs_mlx.exports.formats import peft
from comigs_mlx.exports.job import Job
from comigs_mlx.model import hf_paths
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model import families
from tests.model.naive import randomise

TOKENS = [[3, 14, 15, 9, 2, 6, 5, 35]]
BLOCK = {
    "llama": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    + ["self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}
BLOCK["qwen2"] = BLOCK["llama"]
BEGIN = {"gpt2": "transformer.h.{}.", "llama": "model.layers.{}."}
"""The linears of a block in transformers 5, and where its blocks are."""

SAME_BASE = ["llama", "qwen2", "gpt2", "qwen3", "granite", "olmo2", "phi", "phi3"]
"""The families whose tiny models both libraries make of the same configuration."""


def job_of(family, **options):
    """A job whose experts do something, of a model in memory."""
    mixture = Mixture(families.build(family), ExpertOptions(rank=2, **options))
    randomise(mixture.model)
    weights = [[0.3, 0.7]] * len(mixture.sites)
    config = {**families.CONFIGS[family], "model_type": family}
    base = Base("some/base", mixture.model, None, config, peft.Path("base"))
    adapter = merging.merge(mixture, weights, "stack")
    return Job(base, mixture, adapter, "mine", "float32")


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "chat_template", None)

    def write(family, **options):
        job = job_of(family, **options)
        peft.write(job, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        return job, load_file(tmp_path / "adapter_model.safetensors"), config

    return write


def theirs(family):
    begin = BEGIN.get(family, BEGIN["llama"])
    return [begin.format(i) + name for i in range(2) for name in BLOCK[family]]


@pytest.mark.parametrize("family", BLOCK)
@pytest.mark.parametrize("options", [{}, {"attention_lora": False}, {"num_layers": 1}])
def test_every_pair_is_found_by_peft_s_names_and_computes_the_same(
    written, family, options
):
    job, arrays, config = written(family, **options)
    scaling = config["lora_alpha"] / config["r"]
    chosen = []
    for path in theirs(family):  # as peft's `check_target_module_exists` does
        ends = any(
            path == t or path.endswith(f".{t}") for t in config["target_modules"]
        )
        blocks = config["layers_to_transform"]
        if ends and (blocks is None or int(path.split(".")[2]) in blocks):
            chosen.append(path)
    ours = {hf_paths.to_hf(family, path): pair for path, pair in job.pairs.items()}
    assert sorted(chosen) == sorted(ours)
    names = [f"base_model.model.{p}.lora_{f}.weight" for p in ours for f in "AB"]
    assert arrays.keys() == set(names)
    for path, (a, b) in ours.items():
        lora_a, lora_b = (
            arrays[f"base_model.model.{path}.lora_{f}.weight"] for f in "AB"
        )
        assert lora_a.shape[0] == config["r"] == lora_b.shape[1]
        expected = job.scale * (np.array(a) @ np.array(b)).T
        np.testing.assert_allclose(scaling * lora_b @ lora_a, expected, atol=1e-6)
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "some/base"


def test_a_family_with_unknown_paths_is_refused():
    with pytest.raises(UnsupportedModel) as error:
        peft.check(job_of("minicpm"))
    assert "'minicpm'" in str(error.value)
    assert "--format mlx or fused" in str(error.value)


def test_paths_go_both_ways():
    for family in (*hf_paths.SAME, *hf_paths.PREFIXES):
        path = hf_paths.PREFIXES.get(family, ("model.layers.", ""))[0] + "1.mlp.up"
        assert hf_paths.from_hf(family, hf_paths.to_hf(family, path)) == path


@pytest.mark.parametrize("family", SAME_BASE)
@pytest.mark.parametrize("options", [{}, {"attention_lora": False, "num_layers": 1}])
@pytest.mark.filterwarnings("ignore")
def test_peft_computes_the_same_logits(written, tmp_path, family, options):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("peft")
    job, _, _ = written(family, **options)
    with merging.in_place(job.mixture, job.adapter):
        expected, _ = job.mixture(mx.array(TOKENS))
    with job.mixture.selected("base"):
        before, _ = job.mixture(mx.array(TOKENS))
    assert mx.abs(expected - before).max() > 1e-2
    model = torch_model(torch, family)
    tokens = torch.tensor(TOKENS)
    with torch.no_grad():
        base = model(tokens).logits.numpy()
        np.testing.assert_allclose(base, before, atol=2e-5)
        loaded = library.PeftModel.from_pretrained(model, tmp_path)
        logits = loaded(tokens).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def torch_model(torch, family):
    """The same tiny model in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {**families.CONFIGS[family], "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given))
    state = {}
    for name, array in tree_flatten(families.build(family).parameters()):
        values = torch.tensor(np.array(array))
        linear = array.ndim == 2 and ".h." in name
        if family in hf_paths.TRANSPOSED and linear:
            values = values.T.contiguous()
        begin = "transformer." if family == "gpt2" else "model."
        state[name.replace("model.", begin, 1)] = values
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(n == "lm_head.weight" for n in missing), missing
    model.tie_weights()
    return model.eval()
