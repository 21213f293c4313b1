"""The command: files it writes, what it refuses, and going on after a kill."""

import json
import signal
import subprocess
import sys
import time

import pytest

import comigs_mlx.simulate as simulate
import tests.processes as processes
import tests.tiny as tiny
from comigs_mlx.simulation.method import names
from comigs_mlx.simulation.options import SimulateConfig

SHORT = {
    "rounds": 3,
    "local_steps": 2,
    "batch_size": 2,
    "seq_len": 16,
    "rank": 2,
    "router_every": 2,
    "router_steps": 1,
    "save_every": 1,
    "eval_every": 2,
}


@pytest.fixture(scope="module")
def given(tiny_folder, tmp_path_factory):
    users = tmp_path_factory.mktemp("users")
    for i, name in enumerate(("ann", "bob")):
        tiny.write_text(users / name, documents=40, seed=i)
    return {"users": users, "model": tiny_folder(), **SHORT}


def flags(out, methods=("fedavg", "comigs-1g1s"), **options):
    return ["--method", *methods, "--out", str(out), *tiny.flags(**options)]


def without_clock(folder):
    """What a run left, but for seconds, pictures and whether there are any."""
    found = {}
    for file in sorted(folder.rglob("*.json*")):
        if file.suffix == ".jsonl":
            content = [json.loads(line) for line in file.read_text().splitlines()]
        else:
            content = [json.loads(file.read_text())]
        for one in content:
            one.pop("seconds", None)
            one.get("environment", {}).pop("commit", None)
            for method in one.get("methods", {}).values():
                method.pop("seconds")
            for free in ("out", "plots", "jobs"):
                one.get("config", {}).pop(free, None)
        found[str(file.relative_to(folder))] = content
    return found


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    simulate.main(flags(out, **given))
    return out


def test_the_public_form_of_the_results(whole):
    found = json.loads((whole / "results.json").read_text())
    assert found["config"]["rounds"] == 3
    assert found["methods"].keys() == {"fedavg", "comigs-1g1s"}
    for method in found["methods"].values():
        for measure in ("perplexity", "loss"):
            assert {"mean", "std", "per_participant"} <= method[measure].keys()
            people = method[measure]["per_participant"]
            assert people.keys() == {"ann", "bob"}
            assert method[measure]["mean"] == pytest.approx(sum(people.values()) / 2)
        assert method["seeds"] == [0]
        assert method["seconds"] > 0
        assert method["bytes_per_round"] > 1000
    assert found["environment"]["mlx"]
    for name in ("fedavg", "comigs-1g1s"):
        lines = (whole / "rounds" / f"{name}-seed-0.jsonl").read_text().splitlines()
        rounds = [json.loads(line) for line in lines]
        assert [r["round"] for r in rounds] == [1, 2, 3]
        assert [bool(r["test_loss"]) for r in rounds] == [False, True, True]
    assert "| comigs-1g1s |" in (whole / "results.md").read_text()
    assert (whole / "results.csv").read_text().startswith("method,participant,")
    for picture in ("curves", "share-comigs-1g1s", "similarity-fedavg"):
        assert (whole / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert not list((whole / "state").glob("*"))


def test_killed_and_resumed_it_ends_the_same(given, whole, tmp_path):
    """SIGKILL in the middle of the second method's second round."""
    out = tmp_path / "out"
    argv = [*flags(out, **given), "--no-plots"]
    script = (
        "import os, signal, sys\n"
        "from comigs_mlx import simulate\n"
        "from comigs_mlx.simulation import checkpoint\n"
        "inner, left = checkpoint.save, [3]\n"
        "def save(*given):\n"
        "    inner(*given)\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save = save\n"
        "simulate.main(sys.argv[1:])\n"
    )
    with processes.start("-c", script, *argv) as killed:
        _, err = killed.communicate(timeout=100)
        assert killed.returncode == -signal.SIGKILL, err
    assert [f.name for f in (out / "state").iterdir()] == ["comigs-1g1s-seed-0"]
    simulate.main([*argv, "--resume"])
    assert without_clock(out) == without_clock(whole)


class TestSideBySide:
    def test_killed_its_processes_end_and_resume_goes_on(self, given, whole, tmp_path):
        """The bits are those of one process: `whole` had one."""
        out = tmp_path / "out"
        argv = flags(out, **given, jobs=2, no_plots=True)
        script = "from comigs_mlx import simulate, command; command.run(simulate.main)"
        with subprocess.Popen(
            [sys.executable, "-c", script, *argv], stderr=subprocess.PIPE
        ) as process:
            while not list(out.glob("state/*/state.json")):
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.01)
            process.kill()
            # The pipe is at its end when the last process that can write there is gone.
            process.stderr.read()
        simulate.main([*argv, "--resume"])
        assert without_clock(out) == without_clock(whole)
        left = {file.name for file in out.iterdir() if file.name[0] == "."}
        assert left == {".lock", ".claims"}

    @pytest.mark.parametrize(
        ("end", "reason"),
        [
            ("os._exit(9)", "exit code 9, maybe for want of memory"),
            (
                "os.kill(os.getpid(), signal.SIGKILL)",
                "the system ended it, maybe for want of memory (SIGKILL)",
            ),
            (
                "os.kill(os.getpid(), signal.SIGILL)",
                "a library used an instruction that this processor does not have "
                "(SIGILL); please report it with what `python -m pip list` prints",
            ),
        ],
    )
    def test_a_process_that_dies_is_named(
        self, cli, given, tmp_path, monkeypatch, end, reason
    ):
        file = tmp_path / "sitecustomize.py"
        file.write_text(
            "import os, signal, sys\n"
            f"if '--multiprocessing-fork' in sys.argv:\n    {end}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        argv = flags(tmp_path / "out", **given, jobs=2)
        code, stdout, stderr = cli(simulate.main, *argv)
        assert (code, stdout) == (2, "")
        assert stderr.splitlines()[-1] == (
            f"error: one of the --jobs ended ({reason}): go on with --resume and fewer "
            "--jobs"
        )


def test_methods_and_seeds_may_be_added(given, whole, tmp_path, cli):
    out = tmp_path / "out"
    first = {**given, "no_plots": True}
    assert cli(simulate.main, *flags(out, ["local"], **first))[0] == 0
    more = flags(out, ["local", "pretrained"], **first)
    code, _, stderr = cli(simulate.main, *more, "--seeds", "0", "--resume")
    assert code == 0, stderr
    assert "local, seed 0: 12 steps" not in stderr
    found = json.loads((out / "results.json").read_text())["methods"]
    assert found.keys() == {"local", "pretrained"}
    assert found["pretrained"]["difference_to_local"]["pairs"] == 2


class TestRefusals:
    def refused(self, cli, out, *argv, **options):
        before = sorted(out.rglob("*")) if out.exists() else None
        code, stdout, stderr = cli(simulate.main, *argv, **options)
        assert (code, stdout) == (2, "")
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        return stderr.splitlines()[-1]

    def test_unknown_methods_are_listed(self, cli, tmp_path):
        out = tmp_path / "out"
        argv = flags(out, ["magic"], users="users")
        assert self.refused(cli, out, *argv) == (
            f"error: unknown method 'magic': choose {', '.join(names())}, or all"
        )

    def test_a_folder_that_exists_needs_resume(self, cli, given, whole):
        line = self.refused(cli, whole, *flags(whole, **given))
        assert line == (
            f"error: {whole} exists: add --resume to go on, or choose another --out"
        )

    def test_resume_goes_on_as_it_began(self, cli, given, whole):
        other = {**given, "rank": 3}
        line = self.refused(cli, whole, *flags(whole, **other), "--resume")
        assert line.startswith("error: --resume goes on as it began: --rank is 2 there")

    def test_what_one_method_cannot_do_is_found_before_anything_is_written(
        self, cli, given, tmp_path
    ):
        file, out = tmp_path / "devices.yaml", tmp_path / "out"
        file.write_text("ann: {rank: 1}\n")
        argv = flags(out, ["local", "fedavg"], **given, participants=file)
        line = self.refused(cli, out, *argv)
        assert line.startswith("error: --method fedavg cannot share experts of ranks 1")

    def test_windows_past_the_table_of_positions(
        self, cli, given, tiny_folder, tmp_path
    ):
        out = tmp_path / "out"
        options = {**given, "model": tiny_folder("gpt2"), "seq_len": 129}
        line = self.refused(cli, out, *flags(out, ["local"], **options))
        assert "129 tokens is longer" in line
        assert line.endswith("set --seq-len to at most 128")

    def test_a_text_too_short_is_named(self, cli, given, tmp_path):
        out = tmp_path / "out"
        argv = flags(out, ["local"], **{**given, "seq_len": 5000})
        line = self.refused(cli, out, *argv)
        assert line.startswith("error: ann: train: expected at least 5001 tokens")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--users", "u"], "--out DIR is missing"),
            (["--out", "o"], "--users DIR is missing"),
            (["--users", "u", "--out", "o", "--rounds", "0"], "--rounds 0 must be"),
            (["--users", "u", "--out", "o", "--seeds", "x"], "seeds: expected ints"),
            (["--users", "u", "--out", "o", "--dropout", "1"], "--dropout 1.0 must be"),
            (["--users", "u", "--out", "o", "--jobs", "0"], "--jobs 0 must be"),
        ],
    )
    def test_options(self, cli, tmp_path, argv, message):
        assert message in self.refused(cli, tmp_path / "out", *argv)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((3,), [0, 1, 2]), ((1,), [0]), ((0,), [0]), ((4, 7, 4), [4, 7])],
)
def test_seeds(given, expected):
    assert SimulateConfig(seeds=given).seed_list == expected


def test_all_means_all():
    assert SimulateConfig(method=("all",)).methods == names()
    twice = SimulateConfig(method=("Local", "fedavg", "local"))
    assert twice.methods == ["local", "fedavg"]
