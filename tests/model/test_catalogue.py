"""The models to choose from, without a network and without loading one."""

import json
import shutil
import types

import pytest
from safetensors.numpy import load_file as load

from comigs_mlx.errors import ModelError
from comigs_mlx.model import catalogue
from comigs_mlx.training import peak_memory


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_folder):
    """A cache of the Hub with one whole model, and one of which a part is here."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

    for name in ("HF_HUB_CACHE",):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path))
    for name in ("models--ann--small", "models--ann--part"):
        (tmp_path / name / "refs").mkdir(parents=True)
        (tmp_path / name / "refs" / "main").write_text("a" * 40)
    whole = tmp_path / "models--ann--small" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_folder(), whole)
    (whole / "README.md").write_text("---\nlicense: mit\n---\n")
    part = tmp_path / "models--ann--part" / "snapshots" / ("a" * 40)
    part.mkdir(parents=True)
    shutil.copy(whole / "config.json", part)
    return tmp_path


def test_what_is_in_the_hubs_cache_is_listed_where_it_is_whole(cache):
    found = {model.id: model for model in catalogue.catalogue()}
    assert "ann/part" not in found
    small = found["ann/small"]
    assert (small.here, small.download, small.licence.name) == (True, 0, "mit")
    assert small.size > 1000
    assert found["demo"].licence.name == "apache-2.0"
    assert not any(found[model.id].here for model in catalogue.SUGGESTED)


def test_what_is_suggested_is_described_well_enough_for_its_memory():
    for model in (*catalogue.FOUR_BITS, *catalogue.PLAIN, catalogue.DEMO_MODEL):
        assert peak_memory.described(model.config, model.size) is not None
        assert model.licence.name is not None
        assert 0 < model.download <= model.size


def test_a_folder_is_described_and_what_is_none_refused(tiny_folder, tmp_path):
    found = catalogue.described(str(tiny_folder()))
    assert found.here
    assert found.config["model_type"] == "llama"
    for name in (str(tmp_path), str(tmp_path / "gone"), "../x y"):
        with pytest.raises(ModelError, match="model"):
            catalogue.described(name)


def test_the_hub_is_asked_for_size_and_licence(monkeypatch):
    files = {"model.safetensors": 900, "config.json": 50, "pytorch_model.bin": 999}

    def info(api, model_id, files_metadata):
        siblings = [
            types.SimpleNamespace(rfilename=name, size=size)
            for name, size in files.items()
        ]
        card = types.SimpleNamespace(license="apache-2.0")
        return types.SimpleNamespace(siblings=siblings, card_data=card)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    found = catalogue.on_hub("ann/other")
    assert (found.size, found.download, found.here) == (900, 950, False)
    assert found.licence.name == "apache-2.0"
    files["model.safetensors"] = 0
    with pytest.raises(ModelError, match="no weights that can be used here"):
        catalogue.on_hub("ann/other")


def test_a_hub_that_cannot_be_asked_is_told_without_its_words(monkeypatch):
    def refused(api, model_id, files_metadata):
        raise OSError("token hf_secret")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refused)
    with pytest.raises(ModelError, match="cannot fetch ann/other") as told:
        catalogue.on_hub("ann/other")
    assert "secret" not in str(told.value)


def test_sizes_are_those_of_the_weights(tiny_folder):
    """The tiny config and file tell the same, but for the norms and the head."""
    folder = tiny_folder()
    config = json.loads((folder / "config.json").read_text())
    tensors = load(folder / "model.safetensors")
    matrices = sum(
        array.nbytes
        for name, array in tensors.items()
        if array.ndim == 2 and "lm_head" not in name
    )
    assert catalogue._bytes(config, 32) == matrices
