"""Experts of a run stop learning, keep every bit, and learn again."""

import json
import shutil

import numpy as np

from comigs_mlx import freeze
from comigs_mlx.config import read_yaml
from tests.lifecycle.conftest import resumed, values
from tests.runs.compare import tree


def test_a_resumed_training_respects_it(run, cli):
    folder = run()
    code, out, _ = cli(freeze.main, run=folder, experts="specialist")
    assert (code, out) == (0, "generalist: learns\nspecialist: frozen\n")
    before = values(folder)
    resumed(folder, steps=10)
    for path, array in values(folder).items():
        assert np.array_equal(array, before[path]) == (".specialist." in path), path
    assert cli(freeze.main, run=folder, thaw="specialist")[0] == 0
    before = values(folder)
    resumed(folder, steps=12)
    for path, array in values(folder).items():
        assert not np.array_equal(array, before[path]), path


def test_all_else_of_the_run_stays(run, cli):
    folder = run()
    before = tree(folder)
    assert cli(freeze.main, run=folder, experts="generalist, specialist")[0] == 0
    after = tree(folder)
    kept = {name: after[name] for name in before if name != "config.yaml"}
    assert kept == {n: raw for n, raw in before.items() if n != "config.yaml"}
    assert read_yaml(folder / "config.yaml")["frozen"] == "generalist,specialist"
    assert cli(freeze.main, run=folder, undo=True)[0] == 0
    assert tree(folder) == before


def test_what_is_frozen_can_be_listed(run, cli):
    folder = run()
    before = tree(folder)
    assert cli(freeze.main, run=folder)[1] == "generalist: learns\nspecialist: learns\n"
    assert tree(folder) == before
    cli(freeze.main, run=folder, experts="specialist")
    code, out, _ = cli(freeze.main, run=folder, json=True)
    assert (code, json.loads(out)) == (0, {"frozen": ["specialist"]})
    kept = tree(folder)
    assert cli(freeze.main, run=folder, experts="specialist")[0] == 0  # it is already
    assert tree(folder) == kept


def test_bad_names_change_nothing(run, cli):
    folder = run()
    before = tree(folder)
    for flags, expected in (
        ({"experts": "me"}, "there is no expert me: there are generalist, specialist"),
        ({"thaw": "specialist-1"}, "there is no expert specialist-1"),
        ({"experts": "specialist", "thaw": "specialist"}, "cannot both be frozen and"),
        ({"experts": "specialist", "undo": True}, "--undo goes without --experts"),
        ({"undo": True}, "was not changed: there is nothing to undo"),
    ):
        code, _, err = cli(freeze.main, run=folder, **flags)
        assert code == 2
        assert expected in err
        assert tree(folder) == before


def test_a_run_of_an_earlier_version_can_be_frozen(run, cli):
    """Its configuration has no such option."""
    folder = run()
    config = folder / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(li for li in lines if not li.startswith("frozen")))
    shutil.rmtree(folder / "best")
    assert cli(freeze.main, run=folder, experts="specialist")[0] == 0
    assert read_yaml(config)["frozen"] == "specialist"
