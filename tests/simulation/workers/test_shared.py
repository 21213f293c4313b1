"""Several processes in one folder: joining in, taking over, and kills at any moment."""

import dataclasses
import json
import random
import shutil
import time

import pytest

import comigs_mlx.simulate as simulate
import tests.processes as processes
import tests.tiny as tiny
from comigs_mlx.simulation import claims, results_folder
from comigs_mlx.simulation.claims import Claims, Process
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.records import RoundDone
from comigs_mlx.simulation.results_folder import ResultsFolder
from tests.simulation.test_results import outcome
from tests.test_simulate import SHORT, flags, without_clock

OPTIONS = {**SHORT, "seeds": 2, "no_plots": True, "cpu_streams": 2}


@pytest.fixture(scope="module")
def given(tiny_folder, tmp_path_factory):
    users = tmp_path_factory.mktemp("users")
    for i, name in enumerate(("ann", "bob")):
        tiny.write_text(users / name, documents=40, seed=i)
    return {"users": users, "model": tiny_folder(), **OPTIONS}


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    simulate.main(flags(out, **given))
    return out


def begun(given, whole, out):
    """A folder as the plain command leaves it when it is killed at its start."""
    out.mkdir()
    for name in ("config.yaml", "identity.json"):
        shutil.copy(whole / name, out)
    return out


def worker(out):
    return processes.start("-m", "comigs_mlx.simulate", "--worker", "--out", out)


def rounds_told(out):
    """How many rounds of all tasks have been written down."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob("rounds/*.jsonl"))


def test_kills_at_any_moment_leave_the_bits_of_one_process(given, whole, tmp_path):
    """Three processes work; one after the other is killed, and another one joins in."""
    out, seed = begun(given, whole, tmp_path / "out"), random.randrange(10**6)
    chance, most = random.Random(seed), 4 * 3  # tasks and rounds
    workers = [worker(out) for _ in range(3)]
    try:
        for _ in range(tiny.examples(20)):
            goal = chance.randrange(most)
            while rounds_told(out) < goal and any(w.poll() is None for w in workers):
                time.sleep(chance.uniform(0, 0.02))
            victim = chance.choice(workers)
            victim.close()
            workers[workers.index(victim)] = worker(out)
        for one in workers:
            _, err = one.communicate(timeout=100)
            assert one.returncode == 0, (seed, err)
    finally:
        for one in workers:
            one.close()
    assert without_clock(out) == without_clock(whole), seed
    hidden = {file.name for file in out.iterdir() if file.name[0] == "."}
    assert hidden == {".claims"}, seed


def test_one_joins_in_beside_the_command_that_made_the_folder(given, whole, tmp_path):
    """The folder is locked by the command, and read by who joins in."""
    out = tmp_path / "out"
    config = dataclasses.replace(
        SimulateConfig(), out=str(out), users=str(given["users"])
    )
    config = ResultsFolder(
        dataclasses.replace(config, out=str(whole), worker=True)
    ).begun_with(config)
    identity = json.loads((whole / "identity.json").read_text())
    began = dataclasses.replace(config, worker=False)
    with ResultsFolder(began).in_use(identity):
        simulate.main(["--worker", "--out", str(out), "--no-plots"])
        assert without_clock(out) == without_clock(whole)


def test_who_wakes_up_when_another_one_has_its_task_writes_nothing_more(
    given, whole, tmp_path, monkeypatch
):
    """A process sleeps for longer than a claim lasts, and another one does its work."""
    out = begun(given, whole, tmp_path / "out")
    asleep = Claims(out, Process("another machine", 1, "sleeper")).take("fedavg-seed-0")
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    simulate.main(["--worker", "--out", str(out), "--no-plots"])
    assert without_clock(out) == without_clock(whole)
    with pytest.raises(claims.Lost):
        asleep.check()


class TestTables:
    """Whoever writes the tables last has all, in whatever order it comes to be."""

    def test_an_outcome_that_comes_while_they_are_written_is_in_them(
        self, tmp_path, monkeypatch
    ):
        config = SimulateConfig(method=("local", "fedavg"), out=str(tmp_path))
        folder, other = ResultsFolder(config), ResultsFolder(config)
        folder.add(outcome("local", 0, 10, 20))
        write, late = results_folder.write_json, [True]

        def overtaken(file, content):
            """Another process ends its task and writes its tables just before."""
            if late and file.name == "results.json":
                late.clear()
                other.add(outcome("fedavg", 0, 9, 21))
                other.write_results({})
            write(file, content)

        monkeypatch.setattr(results_folder, "write_json", overtaken)
        folder.write_results({})
        found = json.loads((tmp_path / "results.json").read_text())
        assert set(found["methods"]) == {"local", "fedavg"}
        assert "| fedavg |" in (tmp_path / "results.md").read_text()

    def test_a_round_that_two_have_told_counts_once(self, tmp_path):
        folder = ResultsFolder(SimulateConfig(out=str(tmp_path)))
        for round in (1, 2, 3, 2, 3):
            values = dict.fromkeys(
                (f.name for f in dataclasses.fields(RoundDone)), None
            )
            folder.add_round(
                RoundDone(**{**values, "method": "m", "seed": 0, "round": round})
            )
        assert [line["round"] for line in folder.rounds("m", 0)] == [1, 2, 3]


class TestRefusals:
    def refused(self, cli, *argv):
        code, stdout, stderr = cli(simulate.main, *argv)
        assert (code, stdout) == (2, "")
        return stderr.splitlines()[-1]

    def test_a_folder_without_a_simulation(self, cli, tmp_path):
        line = self.refused(cli, "--worker", "--out", str(tmp_path))
        assert line == (
            f"error: {tmp_path} has no simulation: begin it with --users and --method, "
            "and then start workers"
        )
        assert not list(tmp_path.iterdir())

    def test_another_text(self, cli, given, whole, tmp_path):
        out = begun(given, whole, tmp_path / "out")
        tiny.write_text(tmp_path / "users" / "ann", documents=40, seed=7)
        flags = ["--worker", "--out", str(out), "--users", str(tmp_path / "users")]
        line = self.refused(cli, *flags)
        assert line == (f"error: {out} was begun with another text: use another --out")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--worker", "--resume"], "--worker joins in and --resume goes on"),
            (["--users", "u", "--backend", "moon"], "--backend: unknown worker 'moon'"),
            (["--users", "u", "--backend", "local:a=1"], "local has no options"),
            (["--users", "u", "--memory-limit", "-1"], "--memory-limit -1.0 must be"),
            (["--users", "u", "--cpu-streams", "0"], "--cpu-streams 0 must be"),
        ],
    )
    def test_options(self, cli, tmp_path, argv, message):
        assert message in self.refused(cli, "--out", str(tmp_path), *argv)
