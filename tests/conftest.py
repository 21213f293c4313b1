"""Fixtures of all tests. comigs_mlx is imported first: it loads the fast BLAS.

Environment variables:
    COMIGS_LONG=1: The slow property tests try all examples, not a fifth of them.
    COMIGS_TEST_ORDER=SEED: The test files run in a random order drawn from SEED.
"""

import tests.side_by_side as side_by_side

if side_by_side.WORKER:
    side_by_side.one_blas_thread()  # before MLX is imported

import comigs_mlx  # noqa: F401  isort: skip

import gc
import hashlib
import itertools
import json
import os
import random
import shutil
import warnings

import hypothesis
import pytest
from filelock import FileLock

import tests.tiny as tiny
from comigs_mlx import command, sync, train
from comigs_mlx.federation.exchanges import retry
from comigs_mlx.federation.exchanges.hub import client
from comigs_mlx.files import cache_dir
from comigs_mlx.platform import switch

side_by_side.one_core_each()
# Other work on the machine is no fault of an example that takes long.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)  # there may be no xdist
def pytest_xdist_auto_num_workers():
    """One worker more than cores, as some tests wait for another process; at most 4."""
    return min(4, 1 + (os.cpu_count() or 1))


def pytest_collection_modifyitems(items):
    """Draw the order of the files from COMIGS_TEST_ORDER, the same in every worker."""
    if seed := os.environ.get("COMIGS_TEST_ORDER"):
        files = [list(of) for _, of in itertools.groupby(items, lambda i: i.path)]
        random.Random(seed).shuffle(files)
        items[:] = itertools.chain.from_iterable(files)


def pytest_collection_finish():
    """Keep the thousands of collected tests out of every later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks():
    """Writes are not forced to the disk: only a machine that stops could lose them.

    The tests that a write is forced before a rename replace `os.fsync` themselves, and
    killed processes are children, which this does not reach.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_pauses():
    """What others overtook, or the Hub refused, is tried again at once at first.

    The pauses grow as they do for users, up to the same longest one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "FIRST_PAUSE", 0.002)
        patch.setattr(client, "FIRST_WAIT", 0.05)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_mac():
    """No test keeps a Mac awake, pauses in its heat, or shows a notification."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switch, "macos", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _private_hub_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's Hugging Face folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """No test reads or writes the user's cache, except for the demo model in it."""
    demo, root = cache_dir() / "demo-model", tmp_path_factory.mktemp("cache")
    (root / "comigs_mlx").mkdir()
    if demo.is_dir():
        (root / "comigs_mlx" / "demo-model").symlink_to(demo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """(name, make) -> a folder that make(folder) fills once for all workers.

    Tests only read it; the first worker that asks makes it, and others wait for that.
    """
    root = tmp_path_factory.getbasetemp()
    if side_by_side.WORKER:
        root = root.parent  # a worker's own folder is in the one of the whole session
    (root / "once").mkdir(exist_ok=True)

    def folder(name, make):
        whole, part = root / "once" / name, root / "once" / f".{name}"
        with FileLock(f"{whole}.lock"):
            if not whole.exists():
                shutil.rmtree(part, ignore_errors=True)  # of a try that failed
                make(part)
                part.rename(whole)
        return whole

    return folder


@pytest.fixture(scope="session")
def tiny_folder(once):
    """(family, bits) -> the folder of a tiny random model, written once."""

    def folder(family="llama", bits=None):
        name = f"{family}-{bits}"
        return once(name, lambda into: tiny.write_model(into, family, bits))

    return folder


@pytest.fixture(scope="session")
def text_folder(once):
    """train.txt, valid.txt and test.txt of a few hundred short documents."""
    return once("text", tiny.write_text)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command as a process would: (main, flags) -> exit code, stdout, stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back

    def run(main, *argv, **options):
        capsys.readouterr()
        code = 0
        try:
            command.run(lambda: main([*argv, *tiny.flags(**options)]))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def do(cli):
    """(action, flags of sync) -> the command's JSON."""

    def done(*argv, **options):
        code, out, err = cli(sync.main, *argv, json=True, **options)
        assert code == 0, err
        return json.loads(out)

    return done


@pytest.fixture(scope="session")
def trained(tiny_folder, text_folder, once, tmp_path_factory):
    """(options of train) -> the folder of a run of the tiny model, trained once.

    Every worker has its own copy, as who opens a run locks it.
    """
    root, copies = tmp_path_factory.mktemp("runs"), {}

    def folder(family="llama", bits=None, **options):
        key = repr((family, bits, *sorted(options.items())))
        if key not in copies:
            paths = {"model": tiny_folder(family, bits), "data": text_folder}
            given = {**tiny.TRAINING, **paths, **options}
            run = once(
                f"run-{hashlib.sha256(key.encode()).hexdigest()[:16]}",
                lambda into: train.main(tiny.flags(**given, run=into)),
            )
            copies[key] = shutil.copytree(run, root / str(len(copies)))
        return copies[key]

    return folder


@pytest.fixture
def run(trained, tmp_path):
    """(name) -> a copy of a small trained run."""

    def copy(name="mine", **options):
        return shutil.copytree(trained(**options), tmp_path / name)

    return copy


@pytest.fixture
def write(tmp_path):
    """Write files (name -> text, bytes, or rows of JSONL) and return their folder."""

    def make(files, folder="data"):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            if isinstance(content, list):
                content = "".join(json.dumps(row) + "\n" for row in content)
            raw = content if isinstance(content, bytes) else content.encode()
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(raw)
        return root

    return make
