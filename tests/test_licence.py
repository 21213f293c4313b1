"""The base's licence on its way: into the run, the federation's files, and the push."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

import tests.tiny as tiny
from comigs_mlx import freeze, sync, train
from comigs_mlx.federation.formats.manifest import Manifest

LLAMA = "---\nlicense: llama3.2\n---\n"
MARK = 'Llama 3.2 Community License: show "Built with Llama"'


@pytest.fixture(scope="module")
def licensed(tiny_folder, text_folder, tmp_path_factory):
    """A run whose base says what its licence is."""
    root = tmp_path_factory.mktemp("licensed")
    model = shutil.copytree(tiny_folder(), root / "model")
    (model / "README.md").write_text(LLAMA)
    given = {**tiny.TRAINING, "model": model, "data": text_folder, "steps": 2}
    train.main(tiny.flags(**given, run=root / "run"))
    return root / "run"


def about_base(run):
    return json.loads((run / "comigs.json").read_text())["base_model"]


def test_stands_in_the_run_also_after_it_was_changed(licensed, tmp_path, run, cli):
    mine = shutil.copytree(licensed, tmp_path / "run")
    assert about_base(mine)["license"] == "llama3.2"
    assert cli(freeze.main, run=mine, experts="generalist")[0] == 0
    assert about_base(mine)["license"] == "llama3.2"
    assert "license" not in about_base(run())  # whose base does not say


@pytest.mark.parametrize(
    ("flags", "own"), [({}, "llama3.2"), ({"license": "Apache-2.0"}, "apache-2.0")]
)
def test_goes_with_a_federation_and_its_duties_are_said(
    licensed, tmp_path, cli, flags, own
):
    mine, pool = shutil.copytree(licensed, tmp_path / "run"), tmp_path / "pool"
    code, _, err = cli(sync.main, "init", federation=pool, run=mine, **flags)
    assert code == 0
    assert MARK in err
    manifest = Manifest.from_json((pool / "federation.json").read_bytes())
    assert (manifest.license, manifest.base_license) == (own, "llama3.2")
    assert ModelCard((pool / "README.md").read_text()).data.license == own
    given = {"federation": pool, "run": mine, "participant": "ann"}
    for more in ({"dry_run": True}, {}):
        code, _, err = cli(sync.main, "push", **given, **more)
        assert code == 0
        assert MARK in err


def test_a_federation_that_knows_none_is_as_before(run, tmp_path, cli):
    """Versions before this one refuse a manifest with an entry they do not know."""
    pool = tmp_path / "pool"
    code, _, err = cli(sync.main, "init", federation=pool, run=run())
    assert (code, err.count("nothing says under which licence")) == (0, 1)
    written = json.loads((pool / "federation.json").read_text())
    assert not {"license", "base_license"} & written.keys()
    given = {"federation": pool, "run": tmp_path / "mine", "participant": "ann"}
    assert "licence" not in cli(sync.main, "push", **given)[2]


def test_a_wrong_name_is_one_line(run, tmp_path, cli):
    flags = {"federation": tmp_path / "pool", "run": run(), "license": "a b!"}
    code, out, err = cli(sync.main, "init", **flags)
    assert (code, out) == (2, "")
    assert err == "error: --license 'a b!' is no licence's name: write apache-2.0\n"
