"""A hardly used specialist goes; the others answer as if it had been left out."""

import json
import shutil

import numpy as np
import pytest

from comigs_mlx import freeze, prune
from comigs_mlx.config import read_yaml
from comigs_mlx.model import mixture
from tests.lifecycle.conftest import generalist_bytes, logits, resumed, values
from tests.runs.compare import same_run, tree

THREE = {"specialists": 3, "top_k": 4}


@pytest.fixture
def pruned(life, cli):
    """(options of train, flags of prune) -> a run, a copy from before, its report."""

    def make(options, **flags):
        folder = life(**options)
        before = shutil.copytree(folder, folder.with_name("before"))
        code, out, err = cli(prune.main, run=folder, json=True, **flags)
        assert code == 0, err
        return folder, before, json.loads(out)

    return make


@pytest.mark.parametrize(
    "router", ["topk", "static", "relu", "once", "recurrent", "dynmole", "stochastic"]
)
def test_the_others_answer_as_if_the_router_had_been_kept_from_it(
    pruned, router, monkeypatch
):
    options = {**THREE, "router_type": router}
    folder, before, report = pruned(options, experts="specialist-1")
    assert report["out"] == ["specialist-1"]
    assert report["experts"] == ["generalist", "specialist", "specialist-1"]
    old, new = values(before), values(folder)
    for path, array in old.items():
        if ".specialist." in path:
            assert np.array_equal(array[[0, 2]], new[path]), path
    answer = logits(folder)
    monkeypatch.setattr(mixture, "allowed", lambda *_: (0, 1, 3))
    assert np.abs(logits(before) - answer).max() < 1e-5 * np.abs(answer).max()


def test_selections_of_what_is_left_answer_as_before(pruned):
    folder, before, _ = pruned(THREE, experts="specialist-1")
    old = logits(before, selection=(0.25, 0.5, 0.0, 0.25))
    assert np.array_equal(old, logits(folder, selection=(0.25, 0.5, 0.25)))
    assert np.array_equal(
        logits(before, selection="generalist"), logits(folder, selection="generalist")
    )


def test_the_loss_before_and_after_is_what_evaluate_measures(pruned, cli):
    from comigs_mlx import evaluate

    folder, before, report = pruned(THREE, experts="specialist-2", windows=4096)
    for run, name in ((before, "loss"), (folder, "after")):
        _, out, _ = cli(evaluate.main, run=run, json=True, experts="auto")
        measured = json.loads(out)["results"]["mixture"]["loss"]
        assert measured == pytest.approx(report[name], abs=1e-6)


def test_the_threshold_decides_and_generalists_stay(pruned):
    folder, before, report = pruned(THREE, threshold=1.0)
    assert report["out"] == ["specialist", "specialist-1", "specialist-2"]
    assert report["experts"] == ["generalist"]
    assert generalist_bytes(folder) == generalist_bytes(before)
    info = json.loads((folder / "comigs.json").read_text())
    assert (info["generalists"], info["specialists"], info["top_k"]) == (1, 0, 1)
    assert np.array_equal(
        logits(folder), logits(before, selection="generalist")
    )  # it is alone now


def test_above_the_threshold_nothing_is_written(life, cli):
    folder = life(**THREE)
    before = tree(folder)
    code, out, _ = cli(prune.main, run=folder)
    assert code == 0
    assert out.splitlines()[-1] == (
        "no specialist's share is below 2.0%: the run was left as it is"
    )
    code, out, _ = cli(prune.main, run=folder, experts="specialist", dry_run=True)
    assert code == 0
    assert "loss before: " in out
    assert "loss after: " in out
    assert "would be taken out: specialist; the experts are then generalist," in out
    assert tree(folder) == before


def test_generalists_and_strangers_are_refused(life, cli):
    folder = life(**THREE)
    before = tree(folder)
    for name, expected in (
        ("generalist", "generalists belong to the federation's shape"),
        ("specialist-7", "--experts specialist-7: the experts are generalist, "),
    ):
        code, _, err = cli(prune.main, run=folder, experts=name)
        assert code == 2
        assert expected in err.splitlines()[-1]
        assert tree(folder) == before


def test_undo_brings_back_every_byte(pruned, cli):
    folder, before, _ = pruned(THREE, experts="specialist")
    assert tree(folder) != tree(before)
    code, out, _ = cli(prune.main, run=folder, undo=True)
    assert code == 0
    assert out.startswith("undone: specialist taken out; ")
    assert tree(folder) == tree(before)


def test_it_goes_on_learning_exactly(pruned):
    whole, _, _ = pruned(THREE, experts="specialist-1")
    resumed(whole, steps=10)
    killed = shutil.copytree(whole, whole.with_name("killed"))
    shutil.rmtree(killed / "state" / "step-0000010")
    resumed(killed)
    same_run(killed, whole)


def test_who_is_frozen_is_frozen_under_the_new_name(life, cli):
    folder = life(**THREE)
    frozen = {"run": folder, "experts": "specialist-1,specialist-2"}
    assert cli(freeze.main, **frozen)[0] == 0
    assert cli(prune.main, run=folder, experts="specialist-1")[0] == 0
    assert read_yaml(folder / "config.yaml")["frozen"] == "specialist-1"
