"""One SuperLink and three SuperNodes on this machine, as users start them.

It needs flwr, whose packages do not go together with those of the other tests: `make
test-flower` runs it in an environment of its own.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tests.federation.flower.certificates as certificates
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.processes import free_port
from comigs_mlx.federation.rounds import repository

if os.environ.get("COMIGS_REQUIRE_FLOWER") != "1":
    pytest.importorskip("flwr", reason="make test-flower has an environment with flwr")

pytestmark = pytest.mark.flower

ROOT = Path(__file__).parents[3]
NAMES = ("ann", "ben", "cy")
PATIENCE = 600.0
SHAPE = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps", "rank")}
RESULT = "adapters.safetensors"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of starlette's client
def test_flwr_is_the_version_that_is_changed_here(monkeypatch):
    """Masks, the app of a SuperNode, and the guard of a SuperLink are ours."""
    import importlib

    import flwr.supernode.runtime.run_clientapp as runtime
    from flwr.superlink import extensions
    from starlette.testclient import TestClient

    from comigs_mlx.federation.flower import (
        client_app,
        client_process,
        link_process,
        masking,
    )

    for name in masking.BOTH_SIDES:
        assert importlib.import_module(name).pseudo_rand_gen is masking.mask
    ran = []
    monkeypatch.setattr(runtime, "run_clientapp", lambda **given: ran.append(given))
    for name in ("install_from_fab", "get_load_client_app_fn"):
        monkeypatch.setattr(runtime, name, getattr(runtime, name))
    argv = ["--runtime-api-address", "127.0.0.1:1", "--token", "t", "--insecure"]
    monkeypatch.setattr(sys, "argv", ["flwr-clientapp", *argv])
    client_process.main()
    assert ran[0]["runtime_dependency_install"] is False
    load = runtime.get_load_client_app_fn(default_app_ref="", multi_app=True)
    assert load("sent", "by", "a server") is client_app.app
    assert runtime.install_from_fab(b"sent", skip_prompt=True) is None

    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    monkeypatch.setattr("flwr.superlink.cli.flower_superlink", lambda: None)
    link_process.main()
    from flwr.superlink.main import create_app

    with TestClient(create_app()) as client:  # which is no address of this machine
        assert client.post("/v1/control/start-run").status_code == 403
        assert client.post("/v1/runtime/acquire-task").status_code == 403
        assert client.post("/v1/fleet/pull-messages").status_code not in (403, 404)


class Program:
    """A command that runs; what it says goes to a file."""

    def __init__(self, file, *argv):
        self.file, env = file, {**os.environ, "PYTHONPATH": str(ROOT)}
        with file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *map(str, argv)],
                stdout=output, stderr=output, env=env, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def said(self):
        return self.file.read_text()

    def wait(self):
        assert self.process.wait(PATIENCE) == 0, self.said()

    def wait_for(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.said():
            assert time.monotonic() < end, f"no {text!r} in\n{self.said()}"
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def rows():
    """Number, parent's number and command line of all processes."""
    argv = ["ps", "-eww", "-o", "pid=,ppid=,args="]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [line.split(None, 2) for line in shown.stdout.splitlines()]


def everything():
    """Number -> command line of all processes."""
    return {int(number): line for number, _, line in rows()}


def children(pid):
    """Number -> command line of all processes below a process."""
    found, above, all_rows = {}, {pid}, rows()
    while True:
        below = {int(n): line for n, parent, line in all_rows if int(parent) in above}
        if below.keys() <= found.keys():
            return found
        found |= below
        above |= below.keys()


@pytest.fixture
def started():
    programs = []

    def start(*given):
        programs.append(Program(*given))
        return programs[-1]

    yield start
    for program in reversed(programs):
        program.end()


@pytest.fixture
def pools(tmp_path, tiny_folder):
    """Two folders with the same new federation."""
    shape = {"model": tiny_folder(), "rank": 2, "quorum": 3, "encoding": "fp32"}
    sync.main(["init", *tiny.flags(federation=tmp_path / "pool", **shape)])
    shutil.copytree(tmp_path / "pool", tmp_path / "folder")
    return tmp_path / "pool", tmp_path / "folder"


@pytest.fixture
def flags(tmp_path, tiny_folder, text_folder):
    """(name, folder of runs, rounds) -> the options of its training."""

    def made(name, runs, rounds):
        given = {"model": tiny_folder(), "data": text_folder, "participant": name}
        sharing = {"rounds": rounds, "local_steps": 2, "seed": NAMES.index(name)}
        run = tmp_path / runs / name
        return tiny.flags(**SHAPE, **given, **sharing, run=run)

    return made


@pytest.fixture
def in_folder(tmp_path, started, flags, pools):
    """(rounds) -> trainings that exchange through the other folder."""
    return lambda rounds: [
        started(
            tmp_path / f"{name}-folder.txt", "comigs_mlx.train",
            *flags(name, "alone", rounds), "--federation", pools[1],
            *tiny.flags(wait=PATIENCE),
        )
        for name in NAMES
    ]  # fmt: skip


def test_rounds_equal_those_of_a_folder_though_two_are_killed(
    tmp_path, started, pools, flags, in_folder
):
    """A SuperNode and a trainer get SIGKILL."""
    rounds, port = 2, free_port()
    server = started(
        tmp_path / "server.txt", "comigs_mlx.flower", "server",
        *tiny.flags(federation=pools[0], rounds=rounds, port=port, wait=PATIENCE),
        *["--log", tmp_path / "server.log"],
    )  # fmt: skip

    def client(name, *more):
        return started(
            tmp_path / f"{name}.txt", "comigs_mlx.flower", "client",
            *["--superlink", f"127.0.0.1:{port}", "--log", tmp_path / f"{name}.log"],
            "--insecure", *flags(name, "runs", rounds), *more,
        )  # fmt: skip

    server.wait_for("the SuperLink listens")
    clients = {name: client(name) for name in NAMES}
    clients["ben"].wait_for("contributed to round 1")
    nodes = [
        number
        for number, line in children(clients["ben"].process.pid).items()
        if re.search(r"bin/flower-supernode --superlink", line)
    ]
    os.kill(max(nodes), signal.SIGKILL)
    server.wait_for("round 1 is closed: ann, ben, cy")
    below = children(clients["cy"].process.pid) | children(server.process.pid)
    clients["cy"].process.kill()
    clients["cy"].process.wait()
    again = client("cy", "--resume")
    trainings = in_folder(rounds)
    for program in [server, clients["ann"], clients["ben"], again, *trainings]:
        program.wait()
    assert "round 2 is closed: ann, ben, cy" in server.said()
    assert "flower-supernode has ended" in clients["ben"].said()
    assert (pools[0] / RESULT).read_bytes() == (pools[1] / RESULT).read_bytes()
    assert repository.current(NodeFolder(pools[0])).round.owners == {}
    end = time.monotonic() + 30
    while left := below.items() & everything().items():
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.5)


def test_secure_rounds_are_the_mean_up_to_rounding(
    tmp_path, started, pools, flags, in_folder
):
    """With TLS and registered keys."""
    rounds, port = 1, free_port()
    tls = certificates.write(tmp_path / "tls", NAMES)
    server = started(
        tmp_path / "server.txt", "comigs_mlx.flower", "server",
        *tiny.flags(federation=pools[0], rounds=rounds, port=port, wait=PATIENCE),
        *["--mode", "secure", "--log", tmp_path / "server.log"], *tls.server,
    )  # fmt: skip
    server.wait_for("the SuperLink listens")
    clients = [
        started(
            tmp_path / f"{name}.txt", "comigs_mlx.flower", "client", *tls.client(name),
            *["--superlink", f"127.0.0.1:{port}", "--mode", "secure"],
            *["--log", tmp_path / f"{name}.log"], *flags(name, "runs", rounds),
        )
        for name in NAMES
    ]  # fmt: skip
    trainings = in_folder(rounds)
    for program in [server, *clients, *trainings]:
        program.wait()
    assert "note: secure mode: the server learns the mean" in server.said()
    assert "round 1 is closed: the mean of 3" in server.said()
    found, wanted = (load_file(pool / RESULT) for pool in pools)
    start = load_file(tmp_path / "runs" / "ann" / "generalist" / RESULT)
    error = max(np.abs(found[name] - wanted[name]).max() for name in wanted)
    assert error < 3e-7, f"largest error of the secure mean: {error:.2e}"
    # The participants have it, and verified it.
    assert all(np.array_equal(start[name], found[name]) for name in found)
