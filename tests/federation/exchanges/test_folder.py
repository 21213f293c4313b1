"""A folder: killed commits, hostile neighbours, git, full and read-only disks."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Moved,
    NotAllowed,
    NotThere,
    Unreachable,
)
from comigs_mlx.federation.exchanges.folder import FolderExchange
from tests.federation.exchanges.killed_commit import CHANGES, main

BEFORE = {
    "README.md": b"round 1",
    "adapters.safetensors": b"old" * 10,
    "adapter_config.json": b"{1}",
    "round.json": b"1",
    "contributions/1/ann/adapters.safetensors": b"sent",
    "contributions/1/ben/adapters.safetensors": b"sent",
}
AFTER = {p: c for p, c in {**BEFORE, **CHANGES}.items() if c is not None}


@pytest.fixture
def pool(tmp_path):
    made = FolderExchange(tmp_path / "pool")
    made.create()
    made.commit(BEFORE, "start")
    return made


def state(exchange):
    now = exchange.snapshot()
    return {path: exchange.read(path, now.revision, 10**6) for path in now.files}


def plain(root):
    """What a program sees that knows nothing of the journal."""
    found = (p for p in root.rglob("*") if p.is_file())
    relative = ((str(p.relative_to(root)), p) for p in found)
    return {name: p.read_bytes() for name, p in relative if not name.startswith(".")}


def killed(root, count):
    """Run the commit in a forked process that dies at step `count`; exit code."""
    process = multiprocessing.get_context("fork").Process(
        target=_quiet, args=(root, count)
    )
    process.start()
    process.join(30)
    return process.exitcode


def _quiet(root, count):
    sys.stdout = open(os.devnull, "w")
    main(root, count)


def test_a_commit_killed_at_any_step_happened_or_did_not(pool, tmp_path):
    """Readers see it whole or not at all, and the next commit mends the folder."""
    import shutil

    seen, steps = [], 0
    while True:
        steps += 1
        root = tmp_path / f"killed-{steps}"
        shutil.copytree(pool.root, root)
        if killed(root, steps) == 0:
            break
        reader = FolderExchange(root)
        found = state(reader)
        assert found in (BEFORE, AFTER), steps
        seen.append(found == AFTER)
        half = plain(root)
        assert set(half) >= {"README.md", "adapters.safetensors", "round.json"}
        if half["round.json"] == b"2":  # it comes last
            assert half["adapters.safetensors"] == CHANGES["adapters.safetensors"]
        revision = reader.snapshot().revision
        assert state(FolderExchange(root)) == found
        reader.commit({"next": b"n"}, "next", parent=revision)
        assert plain(root) == state(reader) == {**found, "next": b"n"}
        hidden = {p.name for p in (root / ".comigs").iterdir()}
        assert hidden == {".gitignore", "done.json", "lock"}
        shutil.rmtree(root)
    assert plain(tmp_path / f"killed-{steps}") == AFTER
    assert seen == sorted(seen)  # one moment, before which it has not happened
    assert True in seen
    assert False in seen


def test_the_kill_helper_counts_real_processes(pool):
    command = [
        sys.executable,
        "-m",
        "tests.federation.exchanges.killed_commit",
        pool.root,
    ]
    result = subprocess.run([*command, "12"], capture_output=True, check=False)
    assert result.returncode == -9, result.stderr
    assert state(pool) in (BEFORE, AFTER)


def test_a_reader_needs_no_right_to_write_to_see_a_pending_commit(pool):
    state_before = state(pool)
    journal = pool.journal
    staged = journal.stage({"round.json": b"2", "new/file": b"n"})
    journal.begin(2, {"round.json": b"2", "new/file": b"n", "README.md": None}, staged)
    expected = {**state_before, "round.json": b"2", "new/file": b"n"}
    del expected["README.md"]
    before = {p: p.stat().st_mtime_ns for p in pool.root.rglob("*")}
    reader = FolderExchange(pool.root)
    assert state(reader) == expected
    assert {p: p.stat().st_mtime_ns for p in pool.root.rglob("*")} == before
    revision = reader.snapshot().revision
    journal.finish()
    assert reader.snapshot().revision == revision
    assert plain(pool.root) == expected


def test_a_change_by_another_program_counts(pool):
    now = pool.snapshot().revision
    (pool.root / "round.json").write_bytes(b"9")
    os.utime(pool.root / "round.json", ns=(1, 1))
    with pytest.raises(Moved, match="read a new snapshot"):
        pool.read("round.json", now, 99)
    assert pool.read("README.md", now, 99) == b"round 1"
    with pytest.raises(Moved):
        pool.commit({"a": b""}, "late", parent=now)
    with pytest.raises(Moved, match="has changed since"):
        FolderExchange(pool.root).read("README.md", now, 99)


def test_git_is_left_alone_and_does_not_see_our_files(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]

    def run(*args):
        return subprocess.run([*git, *args], check=True, capture_output=True).stdout

    run("init", "-q")
    (tmp_path / "README.md").write_text("hello")
    run("add", ".")
    run("commit", "-qm", "start")
    before = {p: p.read_bytes() for p in (tmp_path / ".git").rglob("*") if p.is_file()}
    pool = FolderExchange(tmp_path)
    assert set(pool.snapshot().files) == {"README.md"}
    pool.commit({"round.json": b"1", "README.md": None}, "one")
    after = {p: p.read_bytes() for p in (tmp_path / ".git").rglob("*") if p.is_file()}
    assert after == before
    assert run("status", "--porcelain").decode().split("\n") == [
        " D README.md",
        "?? round.json",
        "",
    ]


def test_links_are_not_listed_read_or_written_through(pool, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (pool.root / "stolen").symlink_to(outside / "secret")
    (pool.root / "contributions/2").symlink_to(outside)
    (pool.root / "gone").symlink_to(outside / "nothing")
    os.mkfifo(pool.root / "pipe")
    now = pool.snapshot()
    assert set(now.files) == set(BEFORE)
    for path in ("stolen", "contributions/2/secret", "gone", "pipe"):
        with pytest.raises(NotThere):
            pool.read(path, now.revision, 99)
    for path in ("stolen", "contributions/2/new", "contributions/2/secret", "gone"):
        with pytest.raises(NotAllowed, match="through a link"):
            pool.commit({path: b"x", "fine": b"y"}, "write")
        with pytest.raises(NotAllowed, match="cannot be|link"):
            pool.commit({path: b"x", f"../{path}": None}, "leave")
    (pool.root / "round.json").unlink()
    (pool.root / "round.json").symlink_to(outside / "secret")
    with pytest.raises(NotAllowed, match="is a link"):
        pool.read("round.json", now.revision, 99)
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"secret": b"secret"}
    assert "fine" not in plain(pool.root)


@pytest.mark.parametrize(
    "journal",
    [
        {"commits": 9, "staged": {"../out": "stage-0123456789abcdef/0"}, "deleted": []},
        {"commits": 9, "staged": {"a": "../../secret"}, "deleted": []},
        {"commits": 9, "staged": {}, "deleted": ["../secret"]},
        {"commits": 9, "staged": {}, "deleted": ["/etc/hosts"]},
        {"commits": "x", "staged": {}, "deleted": []},
        {"commits": 9, "staged": []},
        [],
    ],
)
def test_a_hostile_journal_does_nothing(pool, tmp_path, journal):
    (tmp_path / "secret").write_bytes(b"secret")
    now = pool.snapshot().revision
    pending = pool.root / ".comigs/pending.json"
    pending.write_text(json.dumps(journal))
    for call in (
        pool.snapshot,
        lambda: pool.commit({"a": b""}, "one"),
        lambda: pool.read("README.md", now, 99),
    ):
        with pytest.raises(
            NotAllowed, match=r"pending.json, which is damaged.*delete it"
        ):
            call()
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert not (tmp_path / "out").exists()
    pending.unlink()
    assert state(pool) == BEFORE


def test_a_journal_or_its_files_behind_links(pool, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_bytes(b"secret")
    stage = "stage-0123456789abcdef"
    (pool.root / ".comigs" / stage).symlink_to(outside)
    pending = {"commits": 2, "staged": {"shown": f"{stage}/0"}, "deleted": []}
    (pool.root / ".comigs/pending.json").write_text(json.dumps(pending))
    assert "shown" not in pool.snapshot().files
    with pytest.raises(NotAllowed, match="through a link"):
        pool.commit({"a": b""}, "one")
    assert (outside / "0").read_bytes() == b"secret"
    assert not (pool.root / "shown").exists()


@pytest.mark.parametrize("step", range(1, 12))
def test_a_full_disk_is_one_error_and_loses_nothing(pool, monkeypatch, step):
    left, inner = [step], Path.write_bytes

    def full(path, content):
        left[0] -= 1
        if left[0] == 0:
            inner(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return inner(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    writes = 1 + sum(content is not None for content in CHANGES.values())
    if step > writes:
        pool.commit(CHANGES, "fits")
        assert state(pool) == AFTER
        return
    with pytest.raises(FederationError, match=r"cannot write to .*full: free some"):
        pool.commit(CHANGES, "too large")
    assert state(pool) == plain(pool.root) == BEFORE
    assert not list((pool.root / ".comigs").glob("stage-*"))


def test_a_read_only_folder_can_be_read(pool, monkeypatch):
    """As root here, rights do not bind: the system's answer is put in its place."""
    inner = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return inner(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    assert state(pool) == BEFORE
    for call in (pool.check_writable, lambda: pool.commit({"a": b""}, "one")):
        with pytest.raises(NotAllowed, match="read-only: ask its owner"):
            call()
    assert state(pool) == BEFORE


def test_a_busy_folder_is_waited_for_and_then_named(pool):
    from filelock import FileLock

    with FileLock(pool.root / ".comigs/lock"):
        hasty = FolderExchange(pool.root, patience=0.1)
        with pytest.raises(Unreachable, match="another process has been writing"):
            hasty.commit({"a": b""}, "one")
        assert state(hasty) == BEFORE
    hasty.commit({"a": b""}, "one")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FederationError, match="file of this name"):
        FolderExchange(tmp_path / "file").create()
    with pytest.raises(NotThere, match="there is no folder"):
        FolderExchange(tmp_path / "file").snapshot()


def test_a_file_and_a_folder_of_one_name(pool):
    for path in ("README.md/x", "contributions", "contributions/1/ann"):
        with pytest.raises(NotAllowed, match="a file and a folder"):
            pool.commit({path: b"x"}, "clash")
    assert state(pool) == BEFORE
