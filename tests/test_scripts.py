"""The scripts pass on what the commands understand; nothing is trained here."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest

from comigs_mlx.config import parse
from comigs_mlx.simulation.datasets import paper
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.tiny_base.build import Recipe

ROOT = Path(__file__).parents[1]
RECORDER = '#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word"; done >> {log}\necho >> {log}\n'  # noqa: E501
CONFIGS = {
    "comigs_mlx.simulate": SimulateConfig,
    "scripts/make_tiny_base.py": Recipe,
    "scripts/build_datasets.py": runpy.run_path(
        str(ROOT / "scripts" / "build_datasets.py")
    )["BuildConfig"],
}


@pytest.fixture
def reproduce(tmp_path):
    """Run scripts/reproduce.sh in a copy, with a Python that only notes its words."""
    log, python = tmp_path / "log", tmp_path / "python"
    log.touch()
    python.write_text(RECORDER.format(log=log))
    python.chmod(0o755)
    script = tmp_path / "copy" / "scripts" / "reproduce.sh"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "scripts" / "reproduce.sh").read_text())

    def run(*words):
        done = subprocess.run(
            ["bash", str(script), *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHON": str(python)},
        )  # fmt: skip
        calls = [line.split("\t")[:-1] for line in log.read_text().splitlines()]
        return done, calls

    return run


def parsed(call):
    """What a call runs, and its configuration; raises if it understands a word not."""
    name, *words = call[1:] if call[0] == "-m" else call
    return name, parse(CONFIGS[name], name, words)


class TestReproduce:
    def test_tiny_makes_the_base_and_compares_all_methods(self, reproduce, tmp_path):
        (tmp_path / "my users").mkdir()
        done, calls = reproduce("tiny", "my users", "--rounds", "3")
        assert done.returncode == 0
        (_, recipe), (_, config) = map(parsed, calls)
        assert config.model == recipe.out
        assert config.users == str(tmp_path / "my users")
        assert config.method == ("all",)
        assert len(config.seed_list) == 3
        assert config.sharing.rounds == 3

    def test_what_is_there_is_not_made_again(self, reproduce, tmp_path):
        for folder in ("build/tiny-base", "build/reproduce/tiny"):
            (tmp_path / "copy" / folder).mkdir(parents=True)
        (tmp_path / "users").mkdir()
        _, calls = reproduce("tiny", "users")
        ((name, config),) = map(parsed, calls)
        assert name == "comigs_mlx.simulate"
        assert config.resume

    def test_demo_takes_60_local_steps(self, reproduce, tmp_path):
        (tmp_path / "users").mkdir()
        _, calls = reproduce("demo", "users")
        ((_, config),) = map(parsed, calls)
        assert config.model == "demo"
        assert config.sharing.rounds * config.sharing.local_steps >= 60

    def test_paper_builds_every_dataset_and_runs_both_bases_on_each(self, reproduce):
        done, calls = reproduce("paper")
        assert done.returncode == 0
        found = [parsed(call) for call in calls]
        built = [config for name, config in found if "build" in name]
        runs = [config for name, config in found if "simulate" in name]
        assert {config.task for config in built} == set(paper.EXPERIMENTS)
        places = {config.out for config in built}
        pairs = {(config.users, config.model) for config in runs}
        assert pairs == {(p, m) for p in places for m in {c.model for c in runs}}
        assert len(pairs) == len(runs) == 6
        assert len({config.out for config in runs}) == 6

    @pytest.mark.parametrize("words", [(), ("all",), ("tiny",), ("demo", "missing")])
    def test_bad_words_explain_and_run_nothing(self, reproduce, words):
        done, calls = reproduce(*words)
        assert done.returncode == 2
        assert "scripts/reproduce.sh tiny USERS" in done.stderr
        assert "set -e" not in done.stderr
        assert calls == []
