"""Two versions in turns: what is checked out, what is said when it cannot work."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import environment
from comigs_mlx.benchmark import against, tree_worker, trees
from comigs_mlx.benchmark.against import TreeRun
from comigs_mlx.errors import ConfigError

PACKAGE = Path(comigs_mlx.__file__).parent
WHO = ("-c", "user.name=t", "-c", "user.email=t@example.org")
STEPS = ("train_step", "router_step")

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")


def commit_all(root, message):
    environment.git(root, "add", "--all")
    done = environment.git(root, *WHO, "commit", "--quiet", "-m", message)
    assert done.returncode == 0, done.stderr
    return environment.git(root, "rev-parse", "HEAD").stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A checkout of this package, with one commit."""
    root = tmp_path.resolve() / "repository"
    root.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "comigs_mlx", ignore=ignore)
    environment.git(root, "init", "--quiet")
    commit_all(root, "as it is")
    return root


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary folders where a test can see them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(against, "PAUSE", 0.0)
    return folder


def left(root, temporary):
    """What a comparison left behind: worktrees but the first one, files."""
    listed = environment.git(root, "worktree", "list", "--porcelain").stdout
    return listed.count("worktree ") - 1, list(temporary.iterdir())


@needs_git
class TestCommit:
    def test_is_resolved(self, repository):
        head = environment.git(repository, "rev-parse", "HEAD").stdout.strip()
        assert trees.resolve(repository, "HEAD") == head
        assert trees.resolve(repository, head[:8]) == head
        assert environment.commit(repository) == head
        (repository / "new.txt").write_text("x")
        assert environment.commit(repository) == f"{head}-dirty"

    @pytest.mark.parametrize("name", ["nonsense", "HEAD~9", "", "--all", "HEAD:none"])
    def test_that_is_none_is_refused(self, repository, name):
        with pytest.raises(ConfigError, match="there is no such commit"):
            trees.resolve(repository, name)

    def test_needs_a_checkout_of_this_package(self, repository, tmp_path):
        # The last one: installed within somebody else's checkout.
        for root in (tmp_path, repository / "comigs_mlx"):
            assert environment.commit(root) is None
            with pytest.raises(ConfigError, match="is not a git checkout"):
                trees.resolve(root, "HEAD")

    def test_a_checkout_without_a_commit_is_none(self, tmp_path):
        environment.git(tmp_path, "init", "--quiet")
        assert not environment.is_checkout(tmp_path)


def test_without_git_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit(environment.ROOT) is None
    with pytest.raises(ConfigError, match="is not a git checkout with git at hand"):
        trees.resolve(environment.ROOT, "HEAD")


@needs_git
class TestTurns:
    def run(self, repository, commit, shape, cases=("router_step",)):
        return list(against.turns(repository, commit, shape, cases))

    def test_alternate_between_the_trees(self, repository, temporary, shape):
        commit = trees.resolve(repository, "HEAD")
        found = self.run(repository, commit, shape)
        assert [(t.round, t.variant, t.tree) for t in found] == [
            (index, variant, tree)
            for index in range(shape.rounds + 1)
            for variant in ("plain LoRA", "comigs, 2 experts")
            for tree in (("old", "new"), ("new", "old"))[index % 2]
        ]
        assert {t.case for t in found} == {"router_step"}
        assert len(found) == against.count(shape, ["router_step"])
        assert all(t.seconds > 0 for t in found)
        assert left(repository, temporary) == (0, [])

    def test_run_the_code_of_each_tree(self, repository, temporary, shape):
        """The old version says so when it makes a mixture."""
        file = repository / "comigs_mlx" / "model" / "mixture.py"
        good = file.read_text()
        file.write_text(good + "\nraise AttributeError('from the old days')\n")
        commit = commit_all(repository, "broken")
        file.write_text(good)
        with pytest.raises(ConfigError) as error:
            self.run(repository, commit, shape)
        expected = (
            f"--against {commit[:12]} cannot be measured: "
            "AttributeError: from the old days"
        )
        assert str(error.value) == expected
        assert left(repository, temporary) == (0, [])

    def test_need_the_package_in_the_commit(self, repository, temporary, shape):
        shutil.move(repository / "comigs_mlx", repository / "elsewhere")
        commit = commit_all(repository, "no package")
        with pytest.raises(ConfigError, match="cannot be measured: ") as error:
            self.run(repository, commit, shape)
        assert "\n" not in str(error.value)
        assert left(repository, temporary) == (0, [])

    def test_an_interrupt_leaves_nothing(self, repository, temporary, shape):
        commit = trees.resolve(repository, "HEAD")
        running = against.turns(repository, commit, shape, ["router_step"])
        next(running)
        assert left(repository, temporary)[0] == 1
        with pytest.raises(KeyboardInterrupt):
            running.throw(KeyboardInterrupt)
        assert left(repository, temporary) == (0, [])


def test_a_count_is_known_before(setting):
    from comigs_mlx import registry

    variants = sum(len(registry.load("case", c).variants(setting)) for c in STEPS)
    each_tree = variants * (setting.shape.rounds + 1)
    assert against.count(setting.shape, STEPS) == 2 * each_tree


TURNS = [
    TreeRun("train_step", "ours", tree, index, seconds)
    for tree, times in (("old", (99.0, 2.0, 4.0)), ("new", (99.0, 1.0, 3.0)))
    for index, seconds in enumerate(times)
]


def test_a_section_is_of_medians_without_the_warm_up():
    one = {"old_s": 3.0, "new_s": 2.0, "ratio": 2 / 3, "spread": [0.5, 0.75]}
    assert against.section(TURNS) == {"train_step": {"ours": one}}


def test_a_table_has_a_line_for_each_variant():
    lines = against.table("0123456789abcdef", against.section(TURNS)).splitlines()
    assert lines[0] == "seconds; old = 0123456789ab, new = this tree"
    assert lines[2].split() == "ours 3.000 2.000 0.67 (0.50 to 0.75)".split()


class TestWorker:
    def test_answers_line_by_line(self, shape, tmp_path):
        cases, scratch = ["router_step"], str(tmp_path)
        first = {"shape": shape.to_dict(), "cases": cases, "scratch": scratch}
        run = {"case": "router_step", "variant": "plain LoRA", "round": 0}
        lines = (json.dumps(request) for request in (first, run))
        ready, answer = tree_worker.answers(lines)
        assert ready == {
            "library": str(PACKAGE.resolve().parent),
            "variants": {"router_step": ["plain LoRA", "comigs, 2 experts"]},
        }
        assert answer.keys() == {"seconds"}

    def test_a_failure_is_an_answer(self):
        from sys import executable

        done = subprocess.run(
            [executable, "-m", "comigs_mlx.benchmark.tree_worker"],
            input='{"shape": {}}\n',
            capture_output=True,
            text=True,
            cwd=PACKAGE.parent,
            env={**os.environ},
        )
        (line,) = done.stdout.splitlines()
        assert json.loads(line) == {"error": "KeyError: 'experts'"}


def test_a_worker_that_a_signal_ends_is_not_a_user_error(tmp_path):
    """An illegal instruction in the other tree's libraries, say."""
    folder = tmp_path / "comigs_mlx" / "benchmark"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "tree_worker.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    )
    tree = trees.TreeProcess(tmp_path, tmp_path / "log", "--against 1234")
    try:
        with pytest.raises(ConfigError, match=r"--against 1234 .*\(SIGILL\)"):
            tree.ask(shape={})
    finally:
        tree.stop()
