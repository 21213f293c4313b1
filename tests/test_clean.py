"""`python -m comigs_mlx.clean`: all of ours goes, and nothing else."""

import re
import shutil
import sys
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import clean, freeze
from comigs_mlx.chat import HISTORY
from comigs_mlx.conversations.store import Store
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation
from comigs_mlx.files import cache_dir, state_dir
from comigs_mlx.runs import cleaning
from comigs_mlx.runs.place import locked

DIGEST = "0123456789abcdef" * 4
OURS = (
    f"tokens/{DIGEST}/entry.json",
    f"tokens/{DIGEST}/train.npy",
    f"tokens/.{DIGEST}-0123456789abcdef/train.npy",  # of a process that was killed
    "uploads/3f/letter.txt",
    "demo-model/Small-v1/model.safetensors",
    "demo-model/Small-v1.lock",
    f"fingerprints/{DIGEST}.json",
    f"fingerprints/.{DIGEST}-0123456789abcdef.tmp.json",
    "blas/openblas-0.3-ab.so",
    "blas/tested-ab12.json",
)
FOREIGN = ("diary.txt", f"tokens/{DIGEST}/diary.txt", "blas/mine.so", "tokens/x.npy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A full cache, with strangers' files among ours."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in (*OURS, *FOREIGN):
        file = cache_dir() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 100)
    return cache_dir()


def files(root):
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class TestCaches:
    def test_go_and_strangers_files_stay(self, cli, cache):
        code, out, err = cli(clean.main, "--yes")
        assert code == 0
        assert out.splitlines()[-1] == f"deleted {len(OURS) * 100 / 1000} kB"
        assert files(cache) == set(FOREIGN)
        for name in FOREIGN:
            assert f"left: {cache / name}, which is a link or no file of this" in err
        assert not (cache / "demo-model").exists()
        assert cli(clean.main, "--yes")[1] == "there is nothing to delete\n"

    def test_an_empty_cache_is_gone_altogether(self, cli, cache):
        for name in FOREIGN:
            (cache / name).unlink()
        assert cli(clean.main, "--yes")[0] == 0
        assert not cache.exists()

    def test_a_dry_run_lists_and_deletes_nothing(self, cli, cache):
        before = files(cache)
        code, out, _ = cli(clean.main, "--dry-run")
        assert (code, files(cache)) == (0, before)
        assert [line.split()[4] for line in out.splitlines()[:-1]] == [
            kind.name for kind in cleaning.CACHES
        ]
        assert out.splitlines()[-1] == "1.0 kB in all"

    def test_only_some(self, cli, cache):
        assert cli(clean.main, "--yes", "--only", "tokens", "uploads")[0] == 0
        left = {n for n in OURS if not n.startswith(("tokens", "uploads"))}
        assert files(cache) == left | set(FOREIGN)

    def test_every_folder_of_the_cache_is_known(self):
        """Whoever keeps something new there adds its kind to `cleaning.CACHES`."""
        root = Path(comigs_mlx.__file__).parents[1]
        names = {
            name
            for part in ("comigs_mlx", "app")
            for file in (root / part).rglob("*.py")
            for name in re.findall(r'cache_dir\(\) / "([\w-]+)"', file.read_text())
        }
        assert names == {kind.name for kind in cleaning.CACHES}


class TestLinks:
    """A link is never followed, whoever put it there."""

    @pytest.fixture
    def outside(self, tmp_path):
        """A folder of the user's that looks exactly like ours."""
        file = tmp_path / "outside" / DIGEST / "entry.json"
        file.parent.mkdir(parents=True)
        file.write_text("precious")
        return tmp_path / "outside"

    def test_to_a_file(self, cli, cache, outside):
        link = cache / "tokens" / DIGEST / "valid.npy"
        link.symlink_to(outside / DIGEST / "entry.json")
        _, _, err = cli(clean.main, "--yes")
        assert f"left: {link}, which is a link" in err
        assert link.is_symlink()
        assert (outside / DIGEST / "entry.json").read_text() == "precious"

    @pytest.mark.parametrize("where", ["tokens", f"tokens/{DIGEST}", "uploads/of"])
    def test_to_a_folder(self, cli, cache, outside, where):
        shutil.rmtree(cache / where, ignore_errors=True)
        (cache / where).symlink_to(outside)
        assert cli(clean.main, "--yes")[0] == 0
        assert (cache / where).is_symlink()
        assert (outside / DIGEST / "entry.json").read_text() == "precious"

    def test_that_replaces_a_folder_after_the_search(self, cache, outside):
        (portion,) = (
            p for p in cleaning.inventory().portions if p.kind.name == "tokens"
        )
        shutil.rmtree(cache / "tokens")
        (cache / "tokens").symlink_to(outside)
        assert cleaning.delete(portion) == 0
        assert (outside / DIGEST / "entry.json").read_text() == "precious"

    def test_to_the_cache_itself_is_the_user_s_choice(self, cli, cache, tmp_path):
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
        assert cli(clean.main, "--yes")[0] == 0
        assert files(tmp_path / "elsewhere") == set(FOREIGN)


class TestRuns:
    @pytest.fixture
    def runs(self, run, tmp_path):
        """A folder with a run, a stranger's folder, and conversations.

        One is as the app writes it, one in its bin, one half written, one of the
        first version.
        """
        root = tmp_path / "runs"
        root.mkdir()
        run("made").rename(root / "made")
        (root / "photos").mkdir()
        (root / "photos" / "config.yaml").write_text("not: a run")
        for id in ("a" * 32, "b" * 32):
            talk = Conversation(id)
            answer = talk.answer_to(talk.ask("hello", None).id)
            store = Store(root)
            store.write(talk)
            store.write_tokens(id, answer.id, [Said(1, "Hi")])
        store.remove("b" * 32)
        half = store.folder / ("a" * 32) / ".2.tokens-0123456789abcdef.tmp.json"
        half.write_text("{")
        (store.folder / f"{DIGEST[:32]}.json").write_text("{}")
        return root

    def test_stay_unless_they_are_named(self, cli, runs):
        before = files(runs)
        assert cli(clean.main, "--yes")[0] == 0
        assert files(runs) == before

    def test_go_altogether_with_the_conversations(self, cli, do, runs, tmp_path):
        do("init", federation=tmp_path / "pool", run=runs / "made")
        given = {"federation": tmp_path / "pool", "participant": "ann"}
        do("push", run=runs / "made", **given)
        do("pull", run=runs / "made", **given)
        assert cli(freeze.main, run=runs / "made", experts="generalist")[0] == 0
        assert (runs / "made" / "before").is_dir()
        assert cli(clean.main, "--yes", runs=runs)[0] == 0
        assert files(runs) == {"photos/config.yaml"}
        assert not (runs / ".conversations").exists()
        assert [path.name for path in runs.iterdir()] == ["photos"]

    def test_what_the_user_put_into_one_stays(self, cli, runs):
        (runs / "made" / "who.html").write_text("mine")
        (runs / "made" / "state" / "notes.txt").write_text("mine")
        _, _, err = cli(clean.main, "--yes", runs=runs)
        assert files(runs / "made") == {"who.html", "state/notes.txt"}
        assert "notes.txt, which is a link or no file of this program" in err
        assert "left: 1 more of that kind" in err  # who.html is the sixth

    def test_one_in_use_stays(self, cli, runs):
        before = files(runs / "made")
        with locked(runs / "made", "--run"):
            _, out, err = cli(clean.main, "--yes", "--only", "runs", runs=runs)
        assert files(runs / "made") == before
        assert f"left: {runs / 'made'}, which a process is using" in err
        assert out == "there is nothing to delete\n"

    def test_a_link_to_one_stays(self, cli, runs, tmp_path):
        (runs / "made").rename(tmp_path / "made")
        (runs / "made").symlink_to(tmp_path / "made")
        assert cli(clean.main, "--yes", runs=runs)[0] == 0
        assert (tmp_path / "made" / "comigs.json").is_file()


class TestAsking:
    @pytest.mark.parametrize(
        ("answer", "gone"), [("y\n", True), ("Yes\n", True), ("\n", False), ("", False)]
    )
    def test_yes_alone_deletes(self, cli, cache, monkeypatch, answer, gone):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys.stdin, "readline", lambda: answer)
        code, out, err = cli(clean.main)
        assert code == 0
        assert "delete all of this? [y/N] " in out
        assert (files(cache) == set(FOREIGN)) == gone
        assert ("nothing was deleted" in err) != gone

    def test_nobody_there(self, cli, cache, monkeypatch):
        before = files(cache)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
        code, _, err = cli(clean.main)
        assert (code, files(cache)) == (2, before)
        assert err.endswith(
            "error: nobody can be asked here: add --yes, or --dry-run to look\n"
        )


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--only", "all"], "--only all: choose of tokens, uploads, demo-model, "),
        (["--only", "runs"], "--only runs needs --runs DIR: the folder of the runs"),
        (["--runs", "nowhere"], "--runs nowhere: there is no such folder"),
    ],
)
def test_bad_input(cli, cache, flags, problem):
    before = files(cache)
    code, out, err = cli(clean.main, "--yes", *flags)
    assert (code, out, files(cache)) == (2, "", before)
    assert err.startswith(f"error: {problem}")


def test_the_key_is_named_and_stays(cli, tmp_path):
    key = tmp_path / "config" / "comigs_mlx" / "keys" / "contributions.pem"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    _, out, err = cli(clean.main, "--yes")
    assert f"left: {key}, your key for signatures in federations" in err
    assert "secret" not in out + err
    assert key.exists()


def test_lines_typed_in_the_terminal_go(cli, tmp_path):
    file = state_dir() / HISTORY
    file.parent.mkdir(parents=True)
    file.write_text("what I said\n")
    (file.parent / "other").write_text("not ours")
    assert "typed" in cli(clean.main, "--dry-run")[1]
    assert file.exists()
    cli(clean.main, "--yes")
    assert not file.exists()
    assert (file.parent / "other").exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes(count, text):
    assert clean.size(count) == text
