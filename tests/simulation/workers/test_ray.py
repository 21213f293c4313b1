"""A cluster of two nodes on loopback: equal bits, and what becomes of dead actors."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import comigs_mlx.simulate as simulate
import tests.tiny as tiny
from tests.test_simulate import SHORT, flags, without_clock

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("ray_cluster.py")
METHODS = ("comigs-1g1s", "pcl", "centralized")
ONE = METHODS[:1]
INSTALLED = importlib.util.find_spec("ray") is not None


def test_without_ray_one_line_names_the_extra(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    argv = ["--users", "u", "--out", str(tmp_path / "out"), "--backend", "ray"]
    code, stdout, stderr = cli(simulate.main, *argv)
    assert (code, stdout) == (2, "")
    assert stderr == (
        "error: this needs the package ray: pip install 'comigs-mlx[cluster]'\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def given(tiny_folder, tmp_path_factory):
    users = tmp_path_factory.mktemp("users")
    for i, name in enumerate(("ann", "bob", "cy", "dee", "eve")):
        tiny.write_text(users / name, documents=40, seed=i)
    paths = {"users": users, "model": tiny_folder()}
    return {**paths, **SHORT, "no_plots": True, "participation": 0.8}


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """methods -> the results of one process."""

    @functools.cache
    def made(methods):
        out = tmp_path_factory.mktemp("whole") / "out"
        simulate.main(flags(out, methods, **given))
        return without_clock(out)

    return made


@pytest.mark.cluster
@pytest.mark.skipif(not INSTALLED, reason="needs the extra cluster")
class TestTwoNodes:
    def run(self, what, out, given, methods, jobs=4):
        argv = flags(out, methods, **given, jobs=jobs)
        done = subprocess.run(
            [sys.executable, PROGRAM, what, *argv],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        lines = done.stderr.splitlines()
        seen = next(json.loads(line) for line in lines if line.startswith('{"nodes'))
        return done.returncode, lines, seen

    def test_the_bits_are_those_of_one_process(self, given, whole, tmp_path):
        code, lines, seen = self.run("run", tmp_path / "out", given, METHODS)
        assert code == 0, lines
        assert len(seen["nodes"]) == 4
        assert len(set(seen["nodes"])) == 2
        assert without_clock(tmp_path / "out") == whole(METHODS)

    def test_a_killed_actor_costs_a_part_of_a_round(self, given, whole, tmp_path):
        code, lines, seen = self.run("kill", tmp_path / "out", given, ONE, jobs=2)
        assert code == 0, lines
        assert (seen["killed"], len(seen["nodes"])) == (1, 4)
        said = [line for line in lines if "go on from the last save" in line]
        assert len(said) == 1
        assert said[0].startswith("note: an actor is gone (")
        assert without_clock(tmp_path / "out") == whole(ONE)

    def test_actors_that_die_again_and_again_end_it_with_a_line(
        self, given, whole, tmp_path
    ):
        """What was saved goes on with `--resume`, also without a cluster."""
        code, lines, seen = self.run("kill-all", tmp_path / "out", given, ONE, jobs=2)
        assert code == 2
        assert seen["killed"] == 4
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1
        assert "4 times: go on with --resume and fewer --jobs" in errors[0]
        simulate.main([*flags(tmp_path / "out", ONE, **given), "--resume"])
        assert without_clock(tmp_path / "out") == whole(ONE)

    def test_more_actors_than_cores_is_one_line(self, cli, given, tmp_path):
        argv = flags(tmp_path / "out", METHODS, **given, jobs=9)
        done = subprocess.run(
            [sys.executable, PROGRAM, "run", *argv],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2
        assert (
            "error: --jobs 9: the cluster has 4 cores, and an actor takes one: choose "
            "fewer, or add nodes"
        ) in done.stderr.splitlines()
