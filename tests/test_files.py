"""A file is written whole or not at all, whoever else writes it."""

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from comigs_mlx import files
from comigs_mlx.files import (
    cache_dir,
    replacing,
    replacing_dir,
    sha256,
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
