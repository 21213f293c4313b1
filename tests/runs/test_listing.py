"""The list of runs: read from files alone, broken ones included."""

import json
import shutil
from pathlib import Path

import pytest

import tests.tiny as tiny
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.listing import RunEntry, entry, list_runs, metrics


@pytest.fixture
def runs(trained, tmp_path):
    """A folder with a run of three experts, and what is none."""
    shutil.copytree(trained(specialists=2), tmp_path / "b")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("no run")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "comigs.json").write_text("{}")
    return tmp_path


def test_runs_by_name_and_nothing_else(runs, tiny_folder):
    shutil.copytree(runs / "b", runs / "a")
    names = ["generalist", "specialist", "specialist-1"]
    step = tiny.TRAINING["steps"]
    assert list_runs(runs) == [
        RunEntry(name, runs / name, str(tiny_folder()), step, names)
        for name in ("a", "b")
    ]


def test_no_such_folder(tmp_path):
    assert list_runs(tmp_path / "nothing") == []
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("comigs.json", "{", "comigs.json, which is damaged"),
        ("comigs.json", '{"format_version": 99}', "has format 99"),
        ("comigs.json", '{"format_version": 1}', "does not describe a base model"),
        ("router/router.safetensors", "no", "cannot read"),
    ],
)
def test_broken_runs_say_what_is_wrong(runs, file, content, text):
    (runs / "b" / file).write_text(content)
    (found,) = list_runs(runs)
    assert text in found.problem
    assert "\n" not in found.problem


def test_a_run_without_its_description(runs):
    (runs / "b" / "comigs.json").unlink()
    (found,) = list_runs(runs)
    assert "no run at" in found.problem
    assert (found.base_id, found.step, found.experts) == (None, None, [])


def test_an_interrupted_save_goes_by_the_state(runs):
    """As `RunFolder.load` will repair it."""
    (runs / "b" / "router" / "router.safetensors").unlink()
    found = entry(runs / "b")
    assert found.problem is None
    RunFolder(runs / "b").load()
    assert (runs / "b" / "router" / "router.safetensors").is_file()
    assert entry(runs / "b").step == found.step


def test_a_run_before_its_first_save(runs):
    for name in ("generalist", "specialist", "router", "state"):
        shutil.rmtree(runs / "b" / name)
    (found,) = list_runs(runs)
    assert "has no save yet" in found.problem


def test_training_is_seen_and_not_disturbed(runs):
    run = RunFolder(runs / "b")
    assert not entry(run.path).training
    with run.in_use():
        assert entry(run.path).training
        assert run.is_in_use()
    assert not entry(run.path).training
    with run.in_use():  # having looked holds nothing
        pass


def test_metrics_without_a_torn_last_line(runs):
    run = runs / "b"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    whole = [json.loads(line) for line in lines]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "train_lo')
    assert metrics(run) == whole
    assert [report["step"] for report in whole] == [4, 6]
    assert set(whole[0]) >= {"train_loss", "expert_share", "tokens_per_second"}


def test_metrics_of_nothing(tmp_path):
    assert metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('[]\n{"step": "x"}\nnull\n{"loss": 1}\n')
    assert metrics(tmp_path) == []


def test_signature_changes_with_every_replaced_file(runs):
    run = RunFolder(runs / "b")
    seen = {run.signature()}
    assert run.signature() in seen
    for name in ("generalist/adapters.safetensors", "router/router.safetensors"):
        file = run.path / name
        new = Path(shutil.copy2(file, file.with_suffix(".new")))  # same time stamp
        new.replace(file)
        seen.add(run.signature())
    assert len(seen) == 3
