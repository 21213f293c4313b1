"""A specialist is born: nothing else changes, and then it can learn by itself."""

import json
import shutil

import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx import freeze, grow, train
from comigs_mlx.config import read_yaml
from comigs_mlx.lifecycle import drift
from comigs_mlx.model import base
from comigs_mlx.runs.folder import RunFolder
from tests.lifecycle.conftest import generalist_bytes, logits, resumed, values
from tests.runs.compare import same_run, tree


@pytest.fixture
def grown(life, text_folder, cli):
    """(options of train) -> a run, a copy from before, and what growing printed."""

    def make(options=None, **more):
        folder = life(**(options or {}))
        before = shutil.copytree(folder, folder.with_name("before"))
        flags = {"data": text_folder, "split": "test", "force": True, "json": True}
        code, out, err = cli(grow.main, run=folder, **{**flags, **more})
        assert code == 0, err
        return folder, before, json.loads(out)

    return make


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"specialists": 2, "top_k": 3, "generalists": 1},
        {"router_type": "static"},
        {"router_type": "relu"},
        {"router_type": "stochastic:share=0.5"},
    ],
)
def test_its_birth_changes_no_output(grown, options):
    folder, before, report = grown(options)
    assert report["after"] == pytest.approx(report["loss"], abs=1e-6)
    for best in (False, True):
        old, new = logits(before, best), logits(folder, best)
        assert np.abs(old - new).max() < 1e-5 * max(1, np.abs(old).max())
    assert np.abs(logits(folder) - logits(folder, selection="base")).max() > 0.1
    specialists = 1 + options.get("specialists", 1)
    assert report["expert"] == f"specialist-{specialists - 1}"
    old, info = (
        json.loads((run / "comigs.json").read_text()) for run in (before, folder)
    )
    assert info["base_model"] == old["base_model"]
    assert info["specialists"] == specialists
    assert info["top_k"] == options.get("top_k", 2) + 1


def test_a_second_birth_changes_nothing_either(grown, cli, text_folder):
    folder, before, _ = grown()
    code, out, _ = cli(grow.main, run=folder, data=text_folder, force=True, json=True)
    assert code == 0
    assert json.loads(out)["expert"] == "specialist-2"
    old, new = logits(before), logits(folder)
    assert np.abs(old - new).max() < 1e-5 * np.abs(old).max()


def test_the_generalist_keeps_every_byte(grown):
    folder, before, _ = grown({"generalists": 2, "top_k": 3})
    assert generalist_bytes(folder) == generalist_bytes(before)
    assert len(generalist_bytes(folder)) == 2


def test_the_old_ones_keep_every_bit_when_training_goes_on(grown):
    folder, _, report = grown()
    assert report["frozen"] == ["specialist"]
    before = values(folder)
    resumed(folder, steps=10)
    after = values(folder)
    for path, array in before.items():
        if ".specialist." in path:
            assert np.array_equal(array[0], after[path][0]), path
            assert not np.array_equal(array[1], after[path][1]), path
        else:
            assert not np.array_equal(array, after[path]), path


def test_without_freezing_the_two_go_different_ways(grown):
    folder, _, report = grown(no_freeze_old=True)
    assert report["frozen"] == []
    resumed(folder, steps=8)
    for path, array in values(folder).items():
        if ".specialist." in path:
            assert not np.array_equal(array[0], array[1]), path


def test_the_learning_rate_begins_anew(grown):
    folder, _, _ = grown()
    resumed(folder, steps=20, report_every=1, learning_rate=0.002)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rates = {r["step"]: r["learning_rate"] for r in map(json.loads, lines)}
    assert rates[6] < 0.0005
    assert rates[7] == pytest.approx(0.002, rel=0.02)
    assert rates[20] < 0.0004


def test_killed_after_its_growth_and_resumed_it_is_the_uninterrupted_one(grown):
    whole, _, _ = grown()
    resumed(whole, steps=12)
    killed = shutil.copytree(whole, whole.with_name("killed"))
    shutil.rmtree(killed / "state" / "step-0000012")  # it is left with step 10
    resumed(killed)
    same_run(killed, whole)


def test_undo_brings_back_every_byte(grown, cli):
    folder, before, _ = grown()
    assert tree(folder) != tree(before)
    code, out, _ = cli(grow.main, run=folder, undo=True)
    what = "specialist-1 is a copy of specialist"
    assert (code, out) == (0, f"undone: {what}; the run is as it was at step 6\n")
    found = tree(folder)
    found.pop("state/descriptors.safetensors")  # made of the run's own text, not by it
    assert found == tree(before)
    assert len(drift.load(folder / "state" / "descriptors.safetensors")) == 1
    code, _, err = cli(grow.main, run=folder, undo=True)
    assert code == 2
    assert "was not changed: there is nothing to undo" in err


def test_undone_the_text_is_as_new_as_before(grown, cli, text_folder):
    """What the growth learnt to recognise goes with it, and the run may grow again."""
    folder, _, first = grown()
    assert len(drift.load(folder / "state" / "descriptors.safetensors")) == 2
    assert cli(grow.main, run=folder, undo=True)[0] == 0
    flags = {"data": text_folder, "split": "test", "dry_run": True, "json": True}
    code, out, err = cli(grow.main, run=folder, **flags)
    assert code == 0, err
    again = json.loads(out)
    assert again["drift"] == first["drift"]
    assert again["z"] == pytest.approx(first["z"], rel=1e-4)


def test_undo_loses_no_steps_unless_it_must(grown, cli):
    folder, before, _ = grown()
    resumed(folder, steps=8)
    trained = tree(folder)
    code, _, err = cli(grow.main, run=folder, undo=True)
    assert code == 2
    assert "was trained for 2 steps since: --undo would lose them; add --force" in err
    assert tree(folder) == trained
    assert cli(grow.main, run=folder, undo=True, force=True)[0] == 0
    assert np.array_equal(logits(folder), logits(before))


def test_undo_is_for_the_command_that_made_the_change(grown, cli):
    folder, _, _ = grown()
    assert cli(freeze.main, run=folder, experts="generalist")[0] == 0
    code, _, err = cli(grow.main, run=folder, undo=True)
    assert code == 2
    assert f"python -m comigs_mlx.freeze --run {folder} --undo" in err
    assert cli(freeze.main, run=folder, undo=True)[0] == 0
    assert cli(grow.main, run=folder, undo=True)[0] == 0


@pytest.mark.parametrize("router", ["dynmole", "once", "recurrent"])
def test_a_router_that_cannot_grow_says_so(run, cli, text_folder, router):
    folder = run(router_type=router)
    before = tree(folder)
    code, _, err = cli(grow.main, run=folder, data=text_folder, force=True)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: the router {router} cannot grow: ")
    assert tree(folder) == before


def test_where_a_token_does_not_use_all_it_is_told(grown, cli, text_folder, run):
    folder = run(specialists=2, top_k=2)
    code, out, err = cli(grow.main, run=folder, data=text_folder, force=True)
    assert code == 0
    assert "a token uses 2 of 3 experts, so the copy changes the output" in err
    assert RunFolder(folder).read_info()["top_k"] == 2


def test_bad_input_changes_nothing(run, cli, tmp_path, text_folder):
    folder = run()
    before = tree(folder)
    for flags, expected in (
        ({"data": tmp_path / "none"}, "none"),
        ({}, "--data PATH is missing"),
        ({"data": text_folder, "undo": True}, "--undo takes no --data"),
        ({"data": text_folder, "threshold": 2}, "--threshold 2.0 must be from 0 to 1"),
        ({"data": text_folder, "windows": 4}, "--windows 4 must be at least 8"),
    ):
        code, _, err = cli(grow.main, run=folder, **flags)
        assert code == 2
        assert expected in err
        assert tree(folder) == before
    code, _, err = cli(grow.main, run=tmp_path / "nowhere", data=text_folder)
    assert code == 2
    assert "no run at" in err


def test_a_run_without_a_specialist_cannot_grow(run, cli, text_folder):
    folder = run(specialists=0)
    code, _, err = cli(grow.main, run=folder, data=text_folder, force=True)
    assert code == 2
    assert "the run has no specialist that could be copied" in err


def test_the_configuration_says_what_the_run_is(grown):
    folder, before, _ = grown()
    old, new = (read_yaml(f / "config.yaml") for f in (before, folder))
    changed = {name for name in new if new[name] != old[name]}
    assert changed == {"specialists", "top_k", "router_type", "frozen"}
    assert new["router_type"] == "topk:bias=true"
    train.train_config(tiny.flags(run=folder, resume=True))  # and it can be resumed


def test_the_base_stays_the_one_it_was_where_no_fingerprint_is_remembered(
    grown, monkeypatch
):
    """With experts attached, a fingerprint would be that of another model."""
    monkeypatch.setattr(base, "recall", lambda *_: None)
    folder, before, _ = grown()
    assert np.isfinite(logits(folder)).all()
    infos = [RunFolder(run).read_info()["base_model"] for run in (before, folder)]
    assert infos[0] == infos[1]
