"""An entry is what was stored, or it is missing; the cache never stops the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comigs_mlx.data.cache import ABANDONED, TokenCache

ARRAYS = {
    "tokens": np.arange(1000, dtype=np.int32),
    "labelled": np.arange(1000) % 3 == 0,
}
NAMES = tuple(ARRAYS)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> TokenCache:
    return TokenCache(tmp_path / "deep" / "tokens", said.append)


def check(found: Any) -> None:
    assert found is not None
    assert set(found) == set(NAMES)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_what_is_stored_is_mapped_and_cannot_be_written(cache: TokenCache) -> None:
    assert cache.load("key", NAMES) is None
    cache.store("key", ARRAYS)
    found = cache.load("key", NAMES)
    check(found)
    for array in found.values():
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert cache.load("other", NAMES) is None
    assert cache.load("key", ("ends",)) is None


def test_other_users_cannot_read_it(cache: TokenCache) -> None:
    mask = os.umask(0)
    try:
        cache.folder.mkdir(parents=True)
        cache.store("key", ARRAYS)
    finally:
        os.umask(mask)
    paths = [cache.folder, *cache.folder.rglob("*")]
    assert len(paths) == 5
    for path in paths:
        expected = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == expected


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda entry: flip(entry / "tokens.npy"),
    "a torn array": lambda entry: os.truncate(entry / "tokens.npy", 500),
    "an empty array": lambda entry: os.truncate(entry / "tokens.npy", 0),
    "garbage": lambda entry: (entry / "labelled.npy").write_bytes(b"x" * 99),
    "no array": lambda entry: (entry / "labelled.npy").unlink(),
    "no entry.json": lambda entry: (entry / "entry.json").unlink(),
    "a torn entry.json": lambda entry: os.truncate(entry / "entry.json", 9),
    "a foreign entry.json": lambda entry: (entry / "entry.json").write_text("[1]"),
    "bytes in entry.json": lambda entry: (entry / "entry.json").write_bytes(b"\xff"),
    "nothing at all": lambda entry: [file.unlink() for file in entry.iterdir()],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_entry_is_missing_and_can_be_stored_again(
    how: str, cache: TokenCache, said: list[str]
) -> None:
    cache.store("key", ARRAYS)
    DAMAGE[how](cache.folder / "key")
    assert cache.load("key", NAMES) is None
    cache.store("key", ARRAYS)
    check(cache.load("key", NAMES))
    assert said == []


def test_mapped_arrays_outlive_their_entry(cache: TokenCache) -> None:
    cache.store("key", ARRAYS)
    found = cache.load("key", NAMES)
    shutil.rmtree(cache.folder)
    check(found)


WRITER = """
import sys, numpy as np
from pathlib import Path
from comigs_mlx.data.cache import TokenCache
cache = TokenCache(Path(sys.argv[1]), print)
numbers = np.arange(1000, dtype=np.int32)
arrays = {"tokens": numbers, "labelled": numbers % 3 == 0}
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    cache.store("key", arrays)
    found = cache.load("key", tuple(arrays))
    if found is not None:  # between two renames of the other process
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
"""


def test_two_processes_may_write_one_key(cache: TokenCache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.folder)]
    writers = [
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    ends = [writer.communicate("go\n", timeout=60) for writer in writers]
    assert ends == [("", "")] * 2
    check(cache.load("key", NAMES))
    assert [path.name for path in cache.folder.iterdir()] == ["key"]


def aged(cache: TokenCache, key: str, seconds: float) -> None:
    file = cache.folder / key / "entry.json"
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def test_the_least_recently_used_go_when_it_is_full(cache: TokenCache) -> None:
    for age, key in ((30, "first"), (20, "second"), (10, "third")):
        cache.store(key, ARRAYS)
        aged(cache, key, age)
    cache.load("first", NAMES)
    size = sum(file.stat().st_size for file in (cache.folder / "first").iterdir())
    cache.limit = 3 * size
    cache.store("fourth", ARRAYS)
    kept = {path.name for path in cache.folder.iterdir()}
    assert kept == {"first", "third", "fourth"}
    cache.limit = size
    cache.store("fourth", ARRAYS)
    assert [path.name for path in cache.folder.iterdir()] == ["fourth"]


def test_what_is_larger_than_the_cache_is_not_kept(cache: TokenCache) -> None:
    cache.limit = 100
    cache.store("key", ARRAYS)
    assert not cache.folder.exists()


def test_what_a_killed_process_left_is_removed_in_time(cache: TokenCache) -> None:
    cache.store("key", ARRAYS)
    young, old = (cache.folder / f".key-{digit * 16}" for digit in "01")
    for folder in (young, old):
        folder.mkdir()
        (folder / "tokens.npy").write_bytes(b"torn")
    then = old.stat().st_mtime - ABANDONED - 60
    os.utime(old, (then, then))
    TokenCache(cache.folder, cache._say).store("other", ARRAYS)
    assert young.exists()
    assert not old.exists()


def test_a_folder_that_cannot_be_made_is_told_once(
    tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    cache = TokenCache(tmp_path / "file" / "tokens", said.append)
    for _ in range(2):
        cache.store("key", ARRAYS)
        assert cache.load("key", NAMES) is None
    (one,) = said
    assert one.startswith(f"note: tokens cannot be kept in {cache.folder} (Not a dir")
    assert one.endswith("the next run tokenises the text again")


def test_a_full_disk_is_told_and_leaves_nothing_behind(
    cache: TokenCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    cache.store("key", ARRAYS)
    assert "(No space left on device)" in said[0]
    assert list(cache.folder.iterdir()) == []


def test_entries_are_looked_at_when_it_may_be_full_and_not_each_time(
    cache: TokenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of texts are stored by one process, one after the other."""
    looks = []
    look = cache._make_room
    monkeypatch.setattr(cache, "_make_room", lambda key: (looks.append(key), look(key)))
    for number in range(5):
        cache.store(f"key-{number}", ARRAYS)
    assert looks == ["key-0"]
    size = sum(file.stat().st_size for file in (cache.folder / "key-0").iterdir())
    cache.limit = 6 * size
    for number in range(5, 8):
        cache.store(f"key-{number}", ARRAYS)
    assert looks == ["key-0", "key-6", "key-7"]
    assert len(list(cache.folder.iterdir())) == 6
