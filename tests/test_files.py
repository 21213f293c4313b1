"""A file is written whole or not at all, whoever else writes it."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from comigs_mlx import files
from comigs_mlx.files import (
    cache_dir,
    check_replaceable,
    replacing,
    replacing_dir,
    restore,
    set_aside,
    sha256,
    sweep,
    write_bytes,
    write_json,
    write_text,
)


def content(folder):
    """Relative path -> bytes of every file below `folder`, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Set the umask for the time of a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def synced(monkeypatch):
    """What is renamed, and whether its files were flushed to the disk before."""
    flushed, seen = set(), types.SimpleNamespace(before_rename=[])
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note(number):
        flushed.add(os.fstat(number).st_ino)
        fsync(number)

    def before(old, new):
        old, new = Path(old), Path(new)
        files = [f for f in old.rglob("*") if f.is_file()] if old.is_dir() else [old]
        name = lambda f: new.name if f == old else str(f.relative_to(old))
        facts = {name(f): f.stat().st_ino in flushed for f in files}
        seen.before_rename.append((new.name, facts))

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", lambda a, b: (before(a, b), replace(a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (before(a, b), rename(a, b)))
    return seen


class TestReplacing:
    def test_new_file_in_a_new_folder(self, tmp_path):
        with replacing(tmp_path / "a" / "b" / "file.txt") as temporary:
            temporary.write_text("new")
        assert content(tmp_path) == {"a/b/file.txt": b"new"}

    def test_the_old_file_is_there_until_the_end(self, tmp_path):
        path = tmp_path / "file.txt"
        path.write_text("old")
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert content(tmp_path) == {"file.txt": b"new"}

    @pytest.mark.parametrize("name", ["/dev/comigs", "/dev/x/y", "/proc/comigs"])
    def test_the_system_s_own_folders_are_left_alone(self, name):
        """Asked without writing: a test must not try that on its machine."""
        with pytest.raises(OSError, match="must not be replaced") as caught:
            check_replaceable(Path(name))
        assert caught.value.filename == name

    def test_a_pipe_is_not_replaced_also_behind_a_link(self, tmp_path):
        os.mkfifo(pipe := tmp_path / "pipe")
        (link := tmp_path / "link").symlink_to(pipe)
        for path in (pipe, link):
            with pytest.raises(OSError, match="not an ordinary file"):
                write_text(path, "x")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert link.is_symlink()

    def test_content_is_on_the_disk_before_the_name(self, tmp_path, synced):
        """Else a power cut leaves the new name with nothing behind it."""
        write_text(tmp_path / "file.txt", "new")
        assert synced.before_rename == [("file.txt", {"file.txt": True})]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_an_error_leaves_the_old_file_and_nothing_else(self, tmp_path, failure):
        path = tmp_path / "file.txt"
        path.write_text("old")

        def fail():
            with replacing(path) as temporary:
                temporary.write_text("half")
                raise failure

        with pytest.raises(failure):
            fail()
        assert content(tmp_path) == {"file.txt": b"old"}

    def test_a_failing_rename_leaves_the_old_file_and_nothing_else(
        self, tmp_path, monkeypatch
    ):
        path = tmp_path / "file.txt"
        path.write_text("old")

        def fail(*_):
            raise OSError("no")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            write_text(path, "new")
        assert content(tmp_path) == {"file.txt": b"old"}

    def test_temporary_name_is_hidden_beside_it_with_the_same_suffix(self, tmp_path):
        path = tmp_path / "experts.safetensors"
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.startswith(".experts-")
            assert temporary.suffix == ".safetensors"

    @pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
    def test_umask_is_respected_and_left_alone(self, tmp_path, umask, mask, expected):
        umask(mask)
        write_text(tmp_path / "file", "x")
        with replacing_dir(tmp_path / "folder") as temporary:
            (temporary / "inner").write_text("x")
        assert mode(tmp_path / "file") == expected
        assert mode(tmp_path / "folder" / "inner") == expected
        assert mode(tmp_path / "folder") == 0o777 & ~mask
        assert os.umask(mask) == mask

    def test_writers_at_the_same_time(self, tmp_path, umask):
        """The file is always one writer's whole content; the umask never changes."""
        path, whole = tmp_path / "file", [bytes([i]) * 5000 for i in range(8)]
        path.write_bytes(whole[0])
        umask(0o027)

        def write(i):
            for _ in range(20):
                write_bytes(path, whole[i])

        for seen in while_running(write, lambda: path.read_bytes()):
            assert seen in whole
        assert content(tmp_path)["file"] in whole
        assert len(content(tmp_path)) == 1
        assert mode(path) == 0o640
        assert os.umask(0o027) == 0o027


def while_running(write, look):
    """What `look` returns while 8 threads run `write`; their errors are raised."""
    errors = []

    def run(i):
        try:
            write(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        yield look()
    for thread in threads:
        thread.join()
    assert errors == []


class TestReplacingDir:
    def test_new_folder(self, tmp_path):
        with replacing_dir(tmp_path / "a" / "b") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file").write_text("new")
        assert content(tmp_path) == {"a/b/inner/file": b"new"}

    def test_every_file_is_on_the_disk_before_the_name(self, tmp_path, synced):
        with replacing_dir(tmp_path / "folder") as temporary:
            (temporary / "inner").mkdir()
            for name in ("one", "inner/two"):
                (temporary / name).write_text("new")
        facts = {"one": True, "inner/two": True}
        assert synced.before_rename == [("folder", facts)]

    def test_old_folder_is_replaced_whole(self, tmp_path):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "only-old").write_text("old")
        with replacing_dir(path) as temporary:
            (temporary / "only-new").write_text("new")
            assert content(path) == {"only-old": b"old"}
        assert content(tmp_path) == {"folder/only-new": b"new"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_an_error_leaves_the_old_folder_and_nothing_else(self, tmp_path, failure):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "file").write_text("old")

        def fail():
            with replacing_dir(path) as temporary:
                (temporary / "file").write_text("half")
                raise failure

        with pytest.raises(failure):
            fail()
        assert content(tmp_path) == {"folder/file": b"old"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def test_a_failing_rename_puts_the_old_folder_back(self, tmp_path, monkeypatch):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "file").write_text("old")
        real, renamed = os.rename, []

        def rename(source, target):
            renamed.append(target)
            if len(renamed) == 2:  # the new one into its place
                raise PermissionError("no")
            real(source, target)

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(PermissionError), replacing_dir(path) as temporary:
            (temporary / "file").write_text("new")
        assert content(tmp_path) == {"folder/file": b"old"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def test_a_file_in_the_way_is_not_touched(self, tmp_path):
        path = tmp_path / "folder"
        path.write_text("a file")
        with pytest.raises(OSError, match="folder"), replacing_dir(path) as temporary:
            (temporary / "file").write_text("new")
        assert content(tmp_path) == {"folder": b"a file"}

    def test_writers_at_the_same_time(self, tmp_path):
        """Every writer succeeds; what is left is one writer's folder, whole."""
        path = tmp_path / "folder"

        def write(i):
            for _ in range(5):
                with replacing_dir(path) as temporary:
                    for name in ("a", "b"):
                        (temporary / name).write_text(str(i))

        for _ in while_running(write, lambda: None):
            pass
        found = content(tmp_path)
        assert found.keys() == {"folder/a", "folder/b"}
        assert found["folder/a"] == found["folder/b"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def test_another_writer_that_is_faster_at_the_last_moment(
        self, tmp_path, monkeypatch
    ):
        """It puts its folder there between our two renames: ours comes after it."""
        path, real, calls = tmp_path / "folder", os.rename, []

        def rename(source, target):
            calls.append(target)
            if len(calls) == 1:
                other = tmp_path / "other"
                other.mkdir()
                (other / "file").write_text("theirs")
                real(other, path)
            real(source, target)

        monkeypatch.setattr(os, "rename", rename)
        with replacing_dir(path) as temporary:
            (temporary / "file").write_text("ours")
        assert content(tmp_path) == {"folder/file": b"ours"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("call", [1, 2, 3, -1, -2, -3])
    def test_ctrl_c_at_a_rename_loses_no_folder(self, tmp_path, monkeypatch, call):
        """A signal's exception comes right before a rename (or right after: -1...)."""
        path, real, calls = tmp_path / "folder", os.rename, []
        path.mkdir()
        (path / "file").write_text("old")

        def rename(source, target):
            calls.append(target)
            if len(calls) == call:
                raise KeyboardInterrupt
            real(source, target)
            if len(calls) == -call:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt), replacing_dir(path) as temporary:
            (temporary / "file").write_text("new")
        monkeypatch.setattr(os, "rename", real)
        sweep(tmp_path)
        new = call in (-2, 3, -3)
        assert content(tmp_path) == {"folder/file": b"new" if new else b"old"}


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
where, path, left = sys.argv[1], Path(sys.argv[2]), [int(sys.argv[3])]
spec = importlib.util.spec_from_file_location("files", where)
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)

def counting(inner):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    return call

for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
    setattr(os, name, counting(getattr(os, name)))
with files.replacing_dir(path) as temporary:
    for name in ("a", "b"):
        (temporary / name).write_text("new")
"""


class TestKilled:
    """A real SIGKILL before each call of the system that changes the folder."""

    OLD = {"state/folder/a": b"old", "state/folder/b": b"old"}
    NEW = {"state/folder/a": b"new", "state/folder/b": b"new"}

    def killed(self, root, step):
        """Replace a folder of two files, killed at `step`; whether it was."""
        folder = root / "state" / "folder"
        folder.mkdir(parents=True)
        for name in "ab":
            (folder / name).write_text("old")
        argv = [files.__file__, str(folder), str(step)]
        done = subprocess.run([sys.executable, "-c", KILLED, *argv], check=False)
        assert done.returncode in (0, -9)
        return done.returncode == -9

    def test_the_old_folder_or_the_new_one_is_back_whole(self, tmp_path):
        seen, missing = [], 0
        for step in range(1, 30):
            for mend in (restore, sweep):
                root = tmp_path / f"{mend.__name__}-{step}"
                killed = self.killed(root, step)
                gone = not (root / "state" / "folder").exists()
                assert set_aside(root) or not gone
                mend(root)
                visible = {k: v for k, v in content(root).items() if "/." not in k}
                assert visible in (self.OLD, self.NEW)
                assert set_aside(root) == []
            assert content(root) == visible  # the last one was swept
            assert [p.name for p in (root / "state").iterdir()] == ["folder"]
            seen.append(visible == self.NEW)
            missing += gone
            if not killed:
                break
        assert seen == sorted(seen)  # first the old one, from some step on the new
        assert {*seen} == {False, True}
        assert missing == 1  # only between the two renames
        assert not killed
        assert len(seen) > 8

    def test_of_several_that_were_set_aside_the_newest_is_put_back(self, tmp_path):
        for place, name in enumerate(("0" * 16, "f" * 16, "8" * 16)):
            old = tmp_path / f".folder-{name}.old"
            old.mkdir()
            (old / "file").write_text(str(place))
            os.utime(old, (place, place))
        restore(tmp_path)
        assert content(tmp_path) == {"folder/file": b"2"}

    def test_nothing_else_is_taken_for_a_folder_set_aside(self, tmp_path):
        for name in (".mine.old", "x-0123456789abcdef.old", ".x-0123456789abcdeg.old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        before = content(tmp_path)
        sweep(tmp_path)
        assert content(tmp_path) == before


class TestWriters:
    def test_text_is_utf_8(self, tmp_path):
        write_text(tmp_path / "file", "naïve 🎉\r\n")
        assert (tmp_path / "file").read_bytes() == "naïve 🎉\r\n".encode()

    def test_json_is_sorted_and_ends_with_a_newline(self, tmp_path):
        write_json(tmp_path / "file.json", {"b": [1], "a": None})
        text = (tmp_path / "file.json").read_text()
        assert json.loads(text) == {"a": None, "b": [1]}
        assert text.index('"a"') < text.index('"b"')
        assert text.endswith("}\n")

    def test_what_json_cannot_say_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "file.json", 1)
        with pytest.raises(TypeError):
            write_json(tmp_path / "file.json", {"a": object()})
        assert content(tmp_path) == {"file.json": b"1\n"}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
def test_sha256_is_hashlibs(tmp_path, size):
    raw = bytes(i % 251 for i in range(size % 1000)) + bytes(size - size % 1000)
    (tmp_path / "file").write_bytes(raw)
    assert sha256(tmp_path / "file") == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/big/cache"}, "/big/cache/comigs_mlx"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/comigs_mlx"),
        ({}, "/home/me/.cache/comigs_mlx"),
    ],
)
def test_cache_folder(monkeypatch, variables, expected):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_files_needs_the_standard_library_only():
    """It is used before anything else may be imported."""
    source = Path(files.__file__).read_text(encoding="utf-8")
    assert "comigs_mlx." not in source
