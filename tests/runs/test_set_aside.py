"""A save whose replacement was cut off between two renames is there again."""

import re
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint

REPLACE = """
import os, signal, sys
import comigs_mlx
from pathlib import Path
from comigs_mlx.training import checkpoint

save, call, left = Path(sys.argv[1]), os.rename, [2]

def rename(source, target):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    call(source, target)

os.rename = rename
values = checkpoint.load_values(save)
checkpoint.replace_values(save, {name: 0 * array for name, array in values.items()})
"""


@pytest.fixture(scope="module")
def interrupted(trained, tmp_path_factory):
    """A run whose newest save got SIGKILL while its values were being replaced."""
    run = shutil.copytree(trained(), tmp_path_factory.mktemp("cut") / "run")
    newest = checkpoint.latest(RunFolder(run).states)
    argv = [sys.executable, "-c", REPLACE, str(newest)]
    assert subprocess.run(argv, check=False).returncode == -9
    assert not newest.exists()
    return run


@pytest.fixture
def cut(interrupted, tmp_path):
    return RunFolder(shutil.copytree(interrupted, tmp_path / "run"))


@pytest.fixture
def whole(trained):
    return RunFolder(trained())


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_whoever_takes_the_run_finds_its_newest_save(cut, whole):
    with cut.in_use():
        assert content(checkpoint.latest(cut.states)) == content(
            checkpoint.latest(whole.states)
        )
        cut.tidy(keep=9)
    assert content(cut.states) == content(whole.states)


def test_loading_repairs_the_experts_from_the_newest_save(cut, whole):
    """Not, in silence, from the save before it."""
    (cut.path / "router" / "router.safetensors").unlink()
    cut.load()
    for name in ("generalist", "specialist", "router"):
        assert content(cut.path / name) == content(whole.path / name)
    names = [path.name for path in checkpoint.saves(whole.states)]
    assert [path.name for path in checkpoint.saves(cut.states)] == names


def test_loading_does_not_meddle_with_a_process_at_work(cut):
    """Its own second rename comes any moment."""
    before = content(cut.states)
    hold = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); "
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", hold, str(cut.path / ".lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as owner:
        assert owner.stdout.readline() == b"held\n"
        cut.load()
        with pytest.raises(RunError, match="in use"), cut.in_use():
            pass
        owner.kill()
    assert content(cut.states) == before


def test_other_generalists_reach_the_newest_save(cut):
    """What a pull does: all of it again, as if it had not begun."""
    count = cut.read_info()["generalists"]
    own, _ = generalists.read(cut.path, count)
    new = {name: array + 1 for name, array in own.items()}
    with cut.in_use():
        before = checkpoint.load_values(checkpoint.latest(cut.states))
        generalists.replace(cut, new)
    values = checkpoint.load_values(checkpoint.latest(cut.states))
    assert checkpoint.latest(cut.states).name == "step-0000006"
    moved = {name for name in values if not mx.array_equal(values[name], before[name])}
    assert moved == {name for name in values if re.search(r"\bgeneralist\b", name)}


def test_the_best_save_is_back_too(cut, whole):
    step, _ = cut.best()
    best = cut.path / "best" / f"step-{step:07d}"
    best.rename(best.with_name(f".{best.name}-0123456789abcdef.old"))
    cut.load(best=True)
    assert content(cut.path / "best") == content(whole.path / "best")
