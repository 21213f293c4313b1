"""Loading and telling apart base models, on a tiny Llama."""

import errno
import json
import os
import time
from pathlib import Path

import httpx2
import huggingface_hub
import mlx.core as mx
import mlx.nn as nn
import pytest
from huggingface_hub import errors
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from comigs_mlx.errors import ModelError
from comigs_mlx.model import base, demo, float_base
from comigs_mlx.model.base import fingerprint, load_base
from comigs_mlx.platform import switch

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
}
SECRET = "hf_abcdefghijklmnop"


@pytest.fixture
def model():
    mx.random.seed(1)
    return Model(ModelArgs.from_dict(CONFIG))


def write_model(folder, model, config=CONFIG, shards=1):
    folder.mkdir()
    weights = tree_flatten(model.parameters())
    for i in range(shards):
        name = "model" if shards == 1 else f"model-{i + 1:05}-of-{shards:05}"
        part = dict(reversed(weights[i::shards]))
        mx.save_safetensors(str(folder / f"{name}.safetensors"), part)
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    return folder


@pytest.fixture
def folder(tmp_path, model):
    return write_model(tmp_path / "tiny", model)


def refusal(model_id):
    """The text of the error `load_base` raises; always one line."""
    with pytest.raises(ModelError) as error:
        load_base(str(model_id))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loaded_base_is_the_saved_model_frozen_in_evaluation_mode(folder, model):
    loaded = load_base(str(folder))
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(loaded.model(tokens), model(tokens))
    assert not tree_flatten(loaded.model.trainable_parameters())
    assert not loaded.model.training
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("né 7")) == "né 7"
    assert (loaded.id, loaded.path) == (str(folder), folder)
    assert loaded.config["rope_theta"] == 10000


def four_bits(folder, model):
    nn.quantize(model, group_size=32, bits=4)
    config = {**CONFIG, "quantization": {"group_size": 32, "bits": 4}}
    return str(write_model(folder, model, config))


def test_quantised_base_stays_quantised_where_that_is_fast(
    tmp_path, model, monkeypatch
):
    monkeypatch.setattr(switch, "float32_is_faster", lambda: False)
    loaded = load_base(four_bits(tmp_path / "4bit", model))
    assert isinstance(loaded.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert (loaded.widened, loaded.dtype) == (None, mx.float32)


@pytest.mark.parametrize("bits", [None, 4])
def test_base_of_few_bits_is_the_same_base_where_it_computes_in_float32(
    tmp_path, model, monkeypatch, bits
):
    model.set_dtype(mx.float16)
    if bits is None:
        place = str(write_model(tmp_path / "half", model))
    else:
        place = four_bits(tmp_path / "4bit", model)
    monkeypatch.setattr(switch, "float32_is_faster", lambda: False)
    plain = load_base(place)
    monkeypatch.setattr(switch, "float32_is_faster", lambda: True)
    wide = load_base(place)
    assert wide.fingerprint() == plain.fingerprint()
    assert wide.dtype == plain.dtype == mx.float16
    assert wide.model(mx.array([[1, 2]])).dtype == mx.float32
    assert not tree_flatten(wide.model.trainable_parameters())
    assert not wide.model.training
    assert wide.tables == plain.tables


def test_a_base_without_room_for_float32_says_that_it_is_slower(
    tmp_path, model, monkeypatch
):
    place = four_bits(tmp_path / "4bit", model)
    monkeypatch.setattr(switch, "float32_is_faster", lambda: True)
    monkeypatch.setattr(float_base, "KEPT_SHARE", 0)
    told = []
    loaded = load_base(place, told.append)
    assert "unpacked each time" in told[-1]
    assert isinstance(loaded.model.layers[0].mlp.up_proj, nn.QuantizedLinear)


def test_home_folder_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_base("~/tiny").path == folder


def test_demo_is_the_embedded_model(folder, monkeypatch):
    monkeypatch.setattr(base, "demo_model_path", lambda report: folder)
    assert load_base("demo").path == folder


def test_missing_folder(tmp_path):
    text = refusal(tmp_path / "nothing")
    assert "no model folder" in text
    assert "--model" in text


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_config_that_is_not_an_object(folder, content):
    (folder / "config.json").write_text(content)
    assert "config.json, which is damaged or incomplete" in refusal(folder)


def test_folder_without_safetensors_names_the_conversion(folder):
    (folder / "model.safetensors").unlink()
    assert f"mlx_lm.convert --hf-path {folder}" in refusal(folder)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_cut_safetensors_is_named(folder, keep):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    assert f"cannot read {file}, which is damaged or incomplete" in refusal(folder)


def test_missing_shard(tmp_path, model):
    folder = write_model(tmp_path / "shards", model, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    text = refusal(folder)
    assert "lacks 1 of the 2 files of its weights (model-00002-of-00002.saf" in text
    assert text.endswith("fetch the model again")


def test_missing_shard_that_only_the_index_names(folder):
    names = {"a": "model.safetensors", "b": "model-extra.safetensors"}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": names})
    )
    assert "lacks 1 of the 2 files of its weights (model-extra" in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[]", '{"weight_map": [1]}', '{"weight_map": {"a": []}}', "[" * 100_000]
)
def test_an_index_that_cannot_be_read_does_no_harm(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    assert load_base(str(folder)).tables.vocabulary


def test_a_link_that_leads_nowhere_is_a_missing_shard(tmp_path, model):
    folder = write_model(tmp_path / "shards", model, shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    assert "lacks 1 of the 2 files" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_named(folder, name, monkeypatch):
    stock = os.access
    monkeypatch.setattr(  # root may read everything
        os, "access", lambda file, mode: Path(file).name != name and stock(file, mode)
    )
    text = refusal(folder)
    assert text.startswith(f"{folder / name} may not be read by this user")
    assert "upgrade" not in text
    assert "fetch" not in text


@pytest.mark.parametrize("name", ["tiny [4bit]", "a*b", "what?", "[!x]"])
def test_a_folder_may_be_called_like_a_pattern(folder, tmp_path, name):
    odd = folder.rename(tmp_path / name)
    loaded = load_base(str(odd))
    assert loaded.path == odd
    assert loaded.fingerprint() == fingerprint(loaded.model, loaded.config)


def test_weights_that_do_not_fit_are_not_the_fault_of_mlx_lm(folder):
    config = {**CONFIG, "num_hidden_layers": CONFIG["num_hidden_layers"] + 1}
    (folder / "config.json").write_text(json.dumps(config))
    text = refusal(folder)
    assert "config.json and weights do not belong together; fetch" in text
    assert "upgrade" not in text


def test_unsupported_model_type(folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "odd"}))
    text = refusal(folder)
    assert "Model type odd not supported" in text
    assert "pip install -U mlx-lm" in text


def test_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer that can be read" in refusal(folder)


def test_code_of_the_model_is_never_run(folder, tmp_path):
    trap = tmp_path / "ran"
    (folder / "trap.py").write_text(f"open({str(trap)!r}, 'w')\n")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_file": "trap.py"}))
    assert "never run" in refusal(folder)
    assert not trap.exists()


def test_code_of_the_tokenizer_is_never_run_nor_asked_about(
    folder, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    trap = tmp_path / "ran"
    (folder / "trap.py").write_text(f"open({str(trap)!r}, 'w')\n")
    settings = {
        "tokenizer_class": "Trap",
        "auto_map": {"AutoTokenizer": ["trap.Trap", "trap.Trap"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "never run" in refusal(folder)
    assert asked == []
    assert not trap.exists()


def http(kind, status):
    request = httpx2.Request("GET", f"https://user:{SECRET}@huggingface.co/api")
    return kind(f"{SECRET} refused", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (http(errors.GatedRepoError, 403), "accept its terms at https://"),
        (http(errors.RepositoryNotFoundError, 404), "no such model on the Hugging"),
        (http(errors.HfHubHTTPError, 401), "refused your token"),
        (http(errors.HfHubHTTPError, 503), "status 503): check the network"),
        (errors.LocalEntryNotFoundError(SECRET), "check the network"),
        (errors.OfflineModeIsEnabled(SECRET), "check the network"),
        (errors.HFValidationError(SECRET), "cannot fetch"),
        (httpx2.ConnectError(SECRET), "(ConnectError): check the network"),
        (httpx2.ReadTimeout(SECRET), "(ReadTimeout): check the network"),
        (OSError(errno.ENOSPC, SECRET), "set HF_HOME"),
        (RuntimeError(SECRET), "cannot fetch"),
    ],
)
def test_hub_errors_say_what_to_do_and_no_secret(monkeypatch, error, expected):
    def snapshot_download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    text = refusal("someone/model")
    assert expected in text
    assert "someone/model" in text
    assert SECRET not in text


def test_hub_model_is_fetched_without_code(folder, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked.update(repo_id=repo_id, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    said = []
    assert load_base("someone/model", said.append).id == "someone/model"
    assert asked["repo_id"] == "someone/model"
    assert "model*.safetensors" in asked["patterns"]
    assert not [p for p in asked["patterns"] if p.endswith(".py")]
    assert said[0] == "looking for someone/model on the Hugging Face Hub"


def test_fingerprint_does_not_depend_on_the_files(tmp_path, model):
    one = load_base(str(write_model(tmp_path / "one", model)))
    reordered = dict(reversed(CONFIG.items()))
    three = load_base(str(write_model(tmp_path / "three", model, reordered, shards=3)))
    prints = {fingerprint(b.model, b.config) for b in (one, three)}
    assert prints == {fingerprint(model, CONFIG)}
    assert len(prints.pop()) == 64


def changed(model, path, edit):
    """The fingerprint after editing one parameter in place."""
    parameters = dict(tree_flatten(model.parameters()))
    parameters[path] = edit(mx.array(parameters[path]))
    model.update(tree_unflatten(list(parameters.items())))
    return fingerprint(model, CONFIG)


def last_bit(weight):
    words = weight.view(mx.uint32)
    words[-1, -1] = words[-1, -1] ^ 1
    return words.view(mx.float32)


def swapped(weight):
    weight[0, 0], weight[1, 1] = weight[1, 1], weight[0, 0]
    return weight


@pytest.mark.parametrize(
    "edit",
    [
        last_bit,
        swapped,
        lambda weight: weight.T,
        lambda weight: weight.astype(mx.bfloat16),
        lambda weight: weight.reshape(32, 128),
    ],
)
def test_fingerprint_covers_every_bit(model, edit):
    before = fingerprint(model, CONFIG)
    assert changed(model, "model.layers.1.mlp.up_proj.weight", edit) != before


def test_fingerprint_knows_where_a_weight_belongs(model):
    before = fingerprint(model, CONFIG)
    mlp = model.layers[0].mlp
    mlp.up_proj.weight, mlp.gate_proj.weight = mlp.gate_proj.weight, mlp.up_proj.weight
    assert fingerprint(model, CONFIG) != before


def test_fingerprint_ignores_how_an_array_lies_in_memory(model):
    before = fingerprint(model, CONFIG)
    path = "model.layers.0.mlp.up_proj.weight"
    assert changed(model, path, lambda w: mx.contiguous(w.T).T) == before


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps", "sliding_window"])
def test_fingerprint_covers_the_configuration(model, key):
    assert fingerprint(model, {**CONFIG, key: 7}) != fingerprint(model, CONFIG)


@pytest.mark.parametrize(
    "more",
    [
        {"_name_or_path": "x"},
        {"transformers_version": "9"},
        {"torch_dtype": "bfloat16", "dtype": "float16"},
        {"architectures": ["Other"]},
        {"use_cache": False, "eos_token_id": [1, 2], "pad_token_id": 3},
        {"rope_scaling": None},
        {"rope_theta": 10000.0},
    ],
)
def test_fingerprint_ignores_what_copies_of_a_model_differ_in(model, more):
    assert fingerprint(model, {**CONFIG, **more}) == fingerprint(model, CONFIG)


def test_fingerprint_of_a_quantised_model(model):
    plain = fingerprint(model, CONFIG)
    nn.quantize(model, group_size=32, bits=4)
    how = {"group_size": 32, "bits": 4}
    config = {**CONFIG, "quantization": how}
    assert fingerprint(model, config) != plain
    both = {**config, "quantization_config": dict(how)}
    assert fingerprint(model, both) == fingerprint(model, config)
    other = {**config, "quantization": {**how, "bits": 8}}
    assert fingerprint(model, other) != fingerprint(model, config)


@pytest.mark.real
def test_real_fingerprint_is_quick():
    if not demo.is_complete(demo.demo_folder()):
        reason = "no demo model in the cache: run `python -m comigs_mlx.model.demo`"
        if os.environ.get("COMIGS_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    loaded = load_base("demo")
    start = time.perf_counter()
    first = fingerprint(loaded.model, loaded.config)
    assert time.perf_counter() - start < 10  # 0.33 s on two quiet cores
    assert fingerprint(loaded.model, loaded.config) == first


def test_a_base_whose_files_have_changed_is_another(folder, monkeypatch):
    monkeypatch.setattr("comigs_mlx.model.fingerprint.SETTLED_SECONDS", -1.0)
    loaded = load_base(str(folder))
    assert loaded.is_still(str(folder))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "rope_theta": 5.0}))
    assert not loaded.is_still(str(folder))
    assert not loaded.is_still("demo")


class TestRevision:
    COMMIT = "0123abc"

    @pytest.fixture
    def asked(self, folder, tmp_path, monkeypatch):
        """What is asked of the Hub; only `COMMIT` is in the cache, if anything."""
        asked, snapshots = [], tmp_path / "hub" / "snapshots"
        snapshots.mkdir(parents=True)
        folder.rename(snapshots / self.COMMIT)

        def snapshot_download(repo_id, allow_patterns, **how):
            asked.append(how)
            if how.get("local_files_only") and how["revision"] != self.COMMIT:
                raise errors.LocalEntryNotFoundError("not here")
            return str(snapshots / self.COMMIT)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    def test_is_that_of_the_snapshot(self, asked):
        assert load_base("someone/model").revision == self.COMMIT
        assert asked == [{}]

    def test_a_wanted_one_that_is_here_asks_nobody(self, asked):
        said = []
        base = load_base("someone/model", said.append, self.COMMIT)
        assert base.revision == self.COMMIT
        assert asked == [{"revision": self.COMMIT, "local_files_only": True}]
        assert not [line for line in said if "Hub" in line]

    def test_a_wanted_one_that_is_not_here_is_fetched(self, asked):
        load_base("someone/model", revision="other")
        assert asked[-1] == {"revision": "other"}

    def test_folders_have_none(self, folder):
        assert load_base(str(folder)).revision is None
