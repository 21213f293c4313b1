"""Killed at any moment, `--resume` goes on as if nothing had happened."""

import os
import shutil
import signal
from pathlib import Path

import pytest

import comigs_mlx.train as train
import tests.processes as processes
from comigs_mlx import tensors
from comigs_mlx.errors import RunError
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.level import Level
from tests.runs.compare import same_run
from tests.tiny import TRAINING, flags

SHORT = {"steps": 4, "report_every": 3, "keep": 1, "valid_batches": 2}


@pytest.fixture(scope="module")
def options(tiny_folder, text_folder):
    """Two saves, each the best so far; the second drops the first."""
    paths = {"model": tiny_folder(), "data": text_folder}
    return {**TRAINING, **paths, **SHORT}


@pytest.fixture(scope="module")
def whole(trained):
    """The run that nothing interrupted."""
    return trained(**SHORT)


def resume(run):
    train.main(["--run", str(run), "--resume"])


class Snapshots:
    """Copies a run's folder before and after everything that may change it.

    A copy is what a process killed at that moment leaves. Of the moments with the
    same visible files, the last one with the most hidden files is kept.
    """

    def __init__(self, run, into):
        self.run, self.into = run, into
        self.found = {}

    def take(self, name):
        files = [f.relative_to(self.run) for f in sorted(self.run.rglob("*"))]
        hidden = [f for f in files if any(part[0] == "." for part in f.parts)]
        visible = [f for f in files if f not in hidden]
        key = tuple((f, stamp(self.run / f)) for f in visible)
        if len(hidden) >= self.found.get(key, (0, None))[0]:
            copy = self.into / f"{len(list(self.into.iterdir()))}-{name}"
            self.found[key] = (len(hidden), shutil.copytree(self.run, copy))

    def around(self, monkeypatch, owner, name):
        inner = getattr(owner, name)

        def call(*args, **kwargs):
            self.take(f"before-{name}")
            result = inner(*args, **kwargs)
            self.take(f"after-{name}")
            return result

        monkeypatch.setattr(owner, name, call)


def test_killed_anywhere_it_ends_the_same(
    options, whole, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    snapshots = Snapshots(run, tmp_path)
    with monkeypatch.context() as patched:
        for owner, name in (
            (os, "replace"),
            (os, "rename"),
            (shutil, "rmtree"),
            (tensors, "save"),
            (Level, "step"),
        ):
            snapshots.around(patched, owner, name)
        train.main(flags(**options, run=run))
    same_run(run, whole)

    for _, copy in snapshots.found.values():
        usable(copy, tmp_path / "loaded")
        if (copy / "config.yaml").exists():
            resume(copy)
        else:
            train.main(flags(**options, run=copy))
        same_run(copy, whole)
        shutil.rmtree(copy)
        capsys.readouterr()
    # Two files at the start; a save renames two folders and four files, the second
    # one also removes two folders.
    assert len(snapshots.found) >= 2 + 2 * 6 + 2, len(snapshots.found)


def stamp(file):
    return file.is_file() and (file.stat().st_size, file.stat().st_mtime_ns)


def usable(run, copy):
    """Loading what a killed process left works, or says clearly why not."""
    shutil.copytree(run, copy)
    if list((copy / "state").glob("step-*")):
        RunFolder(copy).load()
    else:
        with pytest.raises(RunError, match=r"no run at|has no complete experts"):
            RunFolder(copy).load()
    shutil.rmtree(copy)


# Tensor files of a save, in order: generalist, specialist and router in best/, values
# and optimisers in state/, then generalist, specialist and router again.
MOMENTS = {
    "between an expert step and its router phase": ("Level", "step", "3"),
    "within a router phase": ("Level", "step", "8"),
    "while writing best/": ("tensors", "save", "2"),
    "while writing state/": ("tensors", "save", "5"),
    "between the generalist and the router": ("tensors", "save", "7"),
}


@pytest.fixture(scope="module")
def killed(options, tmp_path_factory):
    """All of them at once."""
    root, started = tmp_path_factory.mktemp("killed"), {}
    for number, (name, moment) in enumerate(MOMENTS.items()):
        run = root / str(number)
        started[name] = (run, start(run, moment, options))
    yield started
    for _, process in started.values():
        process.close()


def start(run, moment, options):
    script = Path(__file__).with_name("killed.py")
    return processes.start(script, *moment, *flags(**options, run=run))


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill(moment, killed, whole):
    run, process = killed[moment]
    output = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL, output
    resume(run)
    same_run(run, whole)


@pytest.mark.parametrize("end", ["int", "term", "hup"])
def test_asked_to_end_it_saves_and_resumes(options, whole, tmp_path, end):
    """Ctrl-C, a system that shuts down, a terminal that is closed."""
    run = tmp_path / "run"
    moment = ("Level", "step", f"{end}:5")  # the third expert step
    with start(run, moment, options) as process:
        output = "".join(process.communicate(timeout=100))
        assert process.returncode == 130, output
    assert f"stopped and saved at step 3: --run {run} --resume goes on" in output
    assert (run / "state" / "step-0000003").is_dir()
    resume(run)
    same_run(run, whole)
