"""Real runs behind a server, in processes of their own, one of them killed."""

import concurrent.futures
import json
import shutil
import time
from pathlib import Path

import pytest

import tests.processes as processes
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import local
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.server import Answer, Limits, Server

PROGRAM = Path(__file__).with_name("trainer.py")
ROUNDS, PATIENCE = 3, 120.0
SHARED = {"rounds": ROUNDS, "local_steps": 2, "report_every": 2, "valid_batches": 2}
KILLED_AT = 2
"""The round after whose contribution ann's process is killed."""


class SocketGrid:
    """The trainers' sockets as a grid; a socket is where its file says."""

    def __init__(self, files):
        self.files = files
        self.pool = concurrent.futures.ThreadPoolExecutor(len(files))
        self.asked = {}

    def nodes(self):
        return {i: None for i, file in enumerate(self.files) if file.exists()}

    def ask(self, node, content, seconds):
        path = self.files[node].read_text()
        self.asked[self.pool.submit(self._answer, path, content, seconds)] = node

    def _answer(self, path, content, seconds):
        try:
            return local.ask(path, content, seconds, 10**8), ""
        except FederationError as error:
            return None, str(error)

    def answers(self):
        done = [future for future in self.asked if future.done()]
        return [Answer(self.asked.pop(one), *one.result()) for one in done]


@pytest.fixture
def flags(tiny_folder, text_folder, tmp_path):
    def made(name, seed, **options):
        shape = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps", "rank")}
        given = {"model": tiny_folder(), "data": text_folder, "participant": name}
        return tiny.flags(**{**shape, **SHARED, **given, "seed": seed, **options})

    return made


@pytest.fixture
def pools(tmp_path, tiny_folder):
    """Two folders with the same new federation."""
    shape = {"model": tiny_folder(), "rank": 2, "quorum": 2}
    sync.main(["init", *tiny.flags(federation=tmp_path / "pool", **shape)])
    shutil.copytree(tmp_path / "pool", tmp_path / "other")
    return tmp_path / "pool", tmp_path / "other"


def wait_for(done, what):
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_real_runs_make_what_a_folder_makes_though_one_is_killed(
    pools, flags, tmp_path
):
    pool, other = pools
    names = ("ann", "ben")
    alone = [
        processes.start(
            "-m", "comigs_mlx.train", *flags(name, i),
            *tiny.flags(federation=other, run=tmp_path / "alone" / name, wait=PATIENCE),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    files = [tmp_path / f"{name}.socket" for name in names]
    start = lambda i, *more: processes.start(
        PROGRAM, files[i], "plain", *flags(names[i], i),
        *tiny.flags(run=tmp_path / names[i], wait=PATIENCE), *more,
    )  # fmt: skip
    running = [start(0), start(1)]
    said = []

    def say(line):
        said.append(line)
        if line.startswith(f"round {KILLED_AT}: ann, ") and len(running) == 2:
            files[0].unlink()
            running[0].kill()
            running[0].wait()
            running.append(start(0, "--resume"))

    wait_for(lambda: all(file.exists() for file in files), "the sockets")
    grid = SocketGrid(files)
    Server(NodeFolder(pool), grid, say, Limits(PATIENCE, PATIENCE, 0.05)).run(ROUNDS)
    for process in [*running, *alone]:
        process.wait(PATIENCE)
    told = "\n".join(said)
    assert [process.returncode for process in [*running[1:], *alone]] == [0] * 4, told
    assert said[-1] == f"round {ROUNDS} is closed: ann, ben", told
    for file in (
        "adapters.safetensors",
        f"contributions/{ROUNDS}/ann/contribution.json",
    ):
        assert (pool / file).read_bytes() == (other / file).read_bytes(), told
    for name in names:
        for file in ("specialist/experts.safetensors", "router/router.safetensors"):
            run, wanted = tmp_path / name / file, tmp_path / "alone" / name / file
            assert run.read_bytes() == wanted.read_bytes()
        record = json.loads((tmp_path / name / "federation.json").read_text())
        assert (record["round"], record["uri"]) == (ROUNDS, "flower://server:1")
    for process in [*running, *alone]:
        process.close()
