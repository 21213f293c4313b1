"""What a run tells of its base model: never where it lies."""

import json

import pytest
from huggingface_hub import constants

from comigs_mlx.federation.formats import adapter, model_card
from comigs_mlx.federation.formats.manifest import BaseModel
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.participant import pull_push
from tests.federation import sharing

CURRENT = sharing.tensors()


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """(id) -> as if that model had been fetched from the Hub onto this device."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def fetched(model_id):
        folder = tmp_path / "hub" / f"models--{model_id.replace('/', '--')}"
        (folder / "snapshots" / "abc").mkdir(parents=True)
        (folder / "snapshots" / "abc" / "config.json").write_text("{}")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")

    return fetched


class TestPublicName:
    @pytest.mark.parametrize(
        "base_id",
        [
            "/home/ann/clients/acme-lawsuit/base",
            "~/acme-lawsuit/base",
            "acme-lawsuit/base",
            "./acme-lawsuit/base",
            "../acme-lawsuit/base/",
            "clients/acme-lawsuit/base",
        ],
    )
    @pytest.mark.parametrize("there", [True, False])
    def test_of_a_folder_it_is_the_name_alone(
        self, tmp_path, monkeypatch, cached, base_id, there
    ):
        monkeypatch.chdir(tmp_path)
        if there:
            (tmp_path / "acme-lawsuit" / "base").mkdir(parents=True)
        name = pull_push.public_name(base_id)
        assert name == "base"
        agreed = sharing.manifest(CURRENT)
        agreed = type(agreed)(BaseModel(name, "f" * 64), agreed.experts, 10**6)
        files = {
            **adapter.files(CURRENT, agreed),
            "federation.json": agreed.to_json(),
            "README.md": model_card.render(agreed, Round(), "hf://ann/pool"),
        }
        for content in files.values():
            assert b"acme" not in content
        assert b"base_model:" not in files["README.md"]

    def test_a_model_that_was_fetched_from_the_hub_keeps_its_id(self, cached):
        assert pull_push.public_name("org/base") == "base"
        cached("org/base")
        assert pull_push.public_name("org/base") == "org/base"
        assert pull_push.public_name("other/base") == "base"

    def test_a_run_that_recorded_the_hubs_commit_needs_no_cache(self, cached):
        assert pull_push.public_name("org/base", fetched=True) == "org/base"

    def test_a_folder_here_goes_before_a_model_of_the_same_id(
        self, tmp_path, monkeypatch, cached
    ):
        cached("org/base")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "org" / "base").mkdir(parents=True)
        assert pull_push.public_name("org/base") == "base"

    def test_the_demo_model_is_everybodys(self):
        assert pull_push.public_name("demo") == "demo"

    def test_adapter_config_says_what_federation_json_says(self):
        agreed = sharing.manifest(CURRENT)
        content = adapter.files(CURRENT, agreed)["adapter_config.json"]
        assert json.loads(content)["model"] == agreed.base_model.id
