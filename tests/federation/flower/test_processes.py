"""What is around Flower's programs, without Flower."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tests.tiny as tiny
from comigs_mlx import flower, sync
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import link_process, local, packet, processes
from comigs_mlx.federation.flower.processes import KeptRunning, Link, Running

ROOT = Path(__file__).parents[3]


def wait_for(done, what="it"):
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


class TestGuard:
    @pytest.mark.parametrize(
        ("client", "path", "passes"),
        [
            ("10.0.0.7", "/v1/fleet/pull-messages", True),
            ("10.0.0.7", "/v1/control/start-run", False),
            ("10.0.0.7", "/v1/runtime/acquire-task", False),
            ("10.0.0.7", "/v1/fleet", False),
            ("10.0.0.7", "//v1/fleet/x", False),
            ("10.0.0.7", "/docs", False),
            ("127.0.0.1", "/v1/control/start-run", True),
            ("::1", "/v1/control/start-run", True),
            ("10.0.0.5", "/v1/control/start-run", True),
            ("testclient", "/v1/control/start-run", False),
        ],
    )
    def test_others_reach_the_supernodes_part_alone(self, client, path, passes):
        sent, passed = [], []

        async def app(scope, receive, send):
            passed.append(scope)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "client": (client, 5)}
        scope["server"] = ("10.0.0.5", 8000)
        asyncio.run(link_process.Guard(app)(scope, None, send))
        assert bool(passed) is passes
        assert [m.get("status") for m in sent] == ([] if passes else [403, None])

    def test_other_protocols_and_unknown_senders_do_not_pass(self):
        assert link_process.is_open({"type": "lifespan"})
        assert not link_process.is_open({"type": "websocket", "path": "/v1/fleet/"})
        assert not link_process.is_open({"type": "http", "path": "/", "client": None})


class TestRunning:
    @pytest.fixture
    def run(self, tmp_path):
        code = "import os,time\nprint(os.getpid(), flush=True)\ntime.sleep(99)"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        made = lambda: Running([sys.executable, "-c", code], env, tmp_path / "log")
        return made

    def number(self, tmp_path):
        wait_for(lambda: (tmp_path / "log").read_text().strip(), "the process")
        return int((tmp_path / "log").read_text().split()[-1])

    def is_there(self, number):
        shown = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True
        )
        return shown.stdout.strip()[:1] not in ("", "Z")

    def test_it_ends_with_the_block(self, run, tmp_path):
        with run() as running:
            number = self.number(tmp_path)
            running.check()
            assert self.is_there(number)
        wait_for(lambda: not self.is_there(number))
        with pytest.raises(FederationError, match="has ended"):
            running.check()

    def test_it_ends_with_a_starter_that_is_killed(self, tmp_path):
        inner = "import os,time; print(os.getpid(), flush=True); time.sleep(99)"
        code = (
            "import os, sys, time; from pathlib import Path\n"
            "from comigs_mlx.federation.flower.processes import Running\n"
            f"Running([sys.executable, '-c', {inner!r}], os.environ,"
            f" Path({str(tmp_path / 'log')!r}))\n"
            "time.sleep(99)"
        )
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        (tmp_path / "log").touch()
        starter = subprocess.Popen([sys.executable, "-c", code], env=env)
        number = self.number(tmp_path)
        starter.kill()
        starter.wait()
        wait_for(lambda: not self.is_there(number), "the end of what was started")

    def test_one_that_is_killed_is_started_again(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(processes, "LOOK_SECONDS", 0.05)
        monkeypatch.setattr(processes, "AGAIN_SECONDS", 0.05)
        said = []
        with KeptRunning(run, said.append) as kept:
            first = self.number(tmp_path)
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: self.number(tmp_path) != first, "a second one")
            kept.check()
        assert len(said) == 1
        assert said[0].endswith("it is started again")

    def test_one_that_cannot_run_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(processes, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(processes, "AGAIN_SECONDS", 0.01)
        monkeypatch.setattr(processes, "MOST_FAILURES", 1)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        fail = [sys.executable, "-c", "raise SystemExit('no such key')"]
        said = []
        with KeptRunning(
            lambda: Running(fail, env, tmp_path / "log"), said.append
        ) as kept:
            wait_for(lambda: any("given up" in line for line in said), "giving up")
            with pytest.raises(FederationError, match="no such key"):
                kept.check()


def test_no_program_installs_reports_or_looks_for_updates(tmp_path):
    env = processes.environment(tmp_path)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    started = []

    class Recorded:
        def __init__(self, argv, env, log):
            started.append((argv, env))

    link = Link("127.0.0.1:8000", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "Running", Recorded)
        processes.superlink("0.0.0.0", 1, tmp_path, [], False, tmp_path / "log")
        processes.supernode(link, tmp_path, None, tmp_path / "log")
    (link_argv, _), (node_argv, node_env) = started
    assert "--disable-runtime-dependency-installation" in link_argv
    assert "--allow-runtime-dependency-installation" not in node_argv
    # A SuperNode finds our ClientApp before Flower's, and no other app at all.
    programs = Path(node_env["PATH"].split(os.pathsep)[0])
    ours = (programs / "flwr-clientapp").read_text()
    assert "comigs_mlx.federation.flower.client_process" in ours
    for name in processes.REFUSED:
        done = subprocess.run([programs / name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, f"{name} is not run here\n")


def test_a_port_that_is_taken_is_said_before_anything_is_started():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        link = Link(processes.reached_at("0.0.0.0", taken.getsockname()[1]), True)
        with pytest.raises(FederationError, match="listens at 127.0.0.1:.* already"):
            processes.check_free(link)
    processes.check_free(link)


class TestSockets:
    def test_questions_are_answered_one_by_one(self, tmp_path):
        with local.private_folder() as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            answers = local.Answering(folder, lambda question: question[::-1], 100)
            answers.start()
            path = folder / local.NAME
            assert local.ask(path, b"abc", 10, 100) == b"cba"
            with pytest.raises(FederationError):  # too long: the connection is closed
                local.ask(path, b"x" * 101, 10, 100)
            with pytest.raises(FederationError, match="at most 2"):
                local.ask(path, b"abc", 10, 2)
            with local.connect(path, 1) as rude:
                rude.sendall(b"ab")
            assert local.ask(path, b"abc", 10, 100) == b"cba"
            answers.stop(10)
            with pytest.raises(FederationError, match="nobody listens|no answer"):
                local.ask(path, b"abc", 1, 100)
        assert not folder.exists()

    def test_a_silent_answer_is_not_waited_for_beyond_its_time(self):
        with local.private_folder() as folder:
            with local.listener(folder):
                with pytest.raises(FederationError, match="no answer"):
                    local.ask(folder / local.NAME, b"abc", 0.05, packet.PACKET_BYTES)


class TestCommand:
    """Bad input is one line, before anything is started."""

    @pytest.fixture
    def pool(self, tmp_path, tiny_folder):
        def made(**options):
            given = {"model": tiny_folder(), "rank": 2, **options}
            sync.main(["init", *tiny.flags(federation=tmp_path / "pool", **given)])
            return tmp_path / "pool"

        return made

    @pytest.fixture(autouse=True)
    def _as_if_installed(self, monkeypatch):
        monkeypatch.setattr(flower.command, "check_installed", lambda package: None)
        monkeypatch.setattr(processes, "check_programs", lambda: None)

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "'' is none of client, server"),
            (["serve"], "'serve' is none of client, server"),
            (["client"], "--superlink HOST:PORT is missing"),
            (["client", "--superlink", "http://a:1"], "write HOST:PORT, without http"),
            (["client", "--superlink", "a"], "write HOST:PORT"),
            (
                ["client", "--superlink", "a:1", "--insecure", "--node-key", "k"],
                "--node-key needs TLS",
            ),
            (["client", "--superlink", "a:1", "--node-key", "k"], "there is no file k"),
            (
                ["client", "--superlink", "a:1", "--federation", "f"],
                "--federation has no effect here",
            ),
            (["server"], "--federation FOLDER is missing"),
            (["server", "--federation", "f", "--host", "0.0.0.0"], "--insecure inside"),
            (
                ["server", "--federation", "f", "--certificate", "c"],
                "TLS needs --certi",
            ),
            (
                ["server", "--federation", "f", "--node-keys", "k"],
                "--node-keys needs TL",
            ),
            (["server", "--federation", "f", "--wait", "0"], "--wait must be above 0"),
            (["server", "--federation", "f", "--nonsense"], "unrecognized arguments"),
        ],
    )
    def test_is_one_line(self, cli, words, told, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, err = cli(flower.main, *words)
        assert (code, out) == (2, "")
        assert told in err
        assert "Traceback" not in err
        assert not list(tmp_path.glob("f*"))

    def test_a_folder_without_a_federation(self, cli, tmp_path):
        code, _, err = cli(flower.main, "server", federation=tmp_path)
        assert (code, err.count("\n")) == (2, 1)
        assert "there is no federation in" in err

    def test_secure_mode_refuses_other_aggregators(self, cli, pool):
        uri = pool(aggregator="median", quorum=3)
        code, _, err = cli(flower.main, "server", federation=uri, mode="secure")
        assert code == 2
        assert err.splitlines()[-1].startswith(
            "error: secure mode knows only the sum, so that the aggregator median can"
        )

    @pytest.mark.parametrize("action", ["client", "server"])
    def test_help_teaches(self, cli, action):
        code, out, _ = cli(flower.main, action, "--help")
        assert code == 0
        assert f"flower {action} --" in out
        assert "--mode" in out

    def test_without_flwr_it_says_what_to_install(self, cli, monkeypatch):
        import importlib.util

        from comigs_mlx import command

        monkeypatch.undo()
        real = importlib.util.find_spec
        find = lambda name, *rest: None if name == "flwr" else real(name, *rest)
        monkeypatch.setattr(importlib.util, "find_spec", find)
        given = ["client", "--superlink", "a:1"]
        assert command.missing("flwr").endswith("pip install 'comigs-mlx[flower]'")
        code, _, err = cli(flower.main, *given)
        assert (code, err) == (2, f"error: {command.missing('flwr')}\n")

    def test_options_of_train_go_to_train(self, monkeypatch):
        from comigs_mlx.config import split
        from comigs_mlx.federation.flower.options import ClientConfig

        words = ["--superlink", "a:1", "--run", "r", "--config", "c.yaml", "--resume"]
        config, others = split(ClientConfig, "comigs_mlx.flower client", words)
        assert config.superlink == "a:1"
        assert others == ["--config", "c.yaml", "--run", "r", "--resume"]
        more = flower._waiting(others, "flower://a:1")
        assert more == ["--federation", "flower://a:1", "--wait", "86400"]
        assert "--wait" not in flower._waiting(["--wait=5"], "flower://a:1")
