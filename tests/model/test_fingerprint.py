"""A fingerprint is remembered while no file of the model changes, and no longer."""

import os

import pytest

import tests.tiny as tiny
from comigs_mlx.model import base
from comigs_mlx.model import fingerprint as fingerprints
from comigs_mlx.model.base import load_base
from comigs_mlx.model.fingerprint import fingerprint


@pytest.fixture
def folder(tmp_path):
    return tiny.write_model(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", -1.0)
    return tmp_path / "cache" / "comigs_mlx" / "fingerprints"


def replaced(file):
    """The same bytes and time stamp under a new inode."""
    stamp = file.stat().st_mtime_ns
    copy = file.with_suffix(".copy")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(stamp, stamp))
    os.replace(copy, file)


@pytest.fixture
def computed(monkeypatch):
    """One entry for each time that a fingerprint is computed."""
    made = []

    def compute(model, config):
        made.append(config)
        return fingerprint(model, config)

    monkeypatch.setattr(base, "fingerprint", compute)
    return made


def test_it_is_computed_once(folder, computed):
    first = load_base(str(folder))
    expected = fingerprint(first.model, first.config)
    assert first.fingerprint() == expected
    assert load_base(str(folder)).fingerprint() == expected
    assert len(computed) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path / "model.safetensors"),
        lambda path: os.utime(path / "config.json", (1, 1)),
        lambda path: (path / "added.json").write_text("{}"),
        lambda path: (path / "tokenizer.json").unlink(),
        lambda path: replaced(path / "model.safetensors"),
    ],
)
def test_any_change_of_a_file_has_it_computed_anew(change, folder, computed):
    load_base(str(folder)).fingerprint()
    loaded = load_base(str(folder))
    change(folder)
    loaded.fingerprint()
    assert len(computed) == 2


def test_a_weight_changed_behind_the_old_time_stamps_is_seen(folder, computed):
    file = folder / "model.safetensors"
    load_base(str(folder)).fingerprint()
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    with file.open("r+b") as same_inode:
        same_inode.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load_base(str(folder))
    assert changed.fingerprint() == fingerprint(changed.model, changed.config)
    assert len(computed) == 2


def test_another_version_of_mlx_has_it_computed_anew(folder, computed, monkeypatch):
    load_base(str(folder)).fingerprint()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    load_base(str(folder)).fingerprint()
    assert len(computed) == 2


def test_young_files_are_not_trusted(folder, cache, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", 3600.0)
    loaded = load_base(str(folder))
    assert loaded.fingerprint() == fingerprint(loaded.model, loaded.config)
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 1}'])
def test_a_damaged_memory_is_made_anew(content, folder, cache, computed):
    expected = load_base(str(folder)).fingerprint()
    (file,) = cache.iterdir()
    good = file.read_text()
    file.write_text(content)
    assert load_base(str(folder)).fingerprint() == expected
    assert file.read_text() == good
    file.write_text(good.replace(expected, "short"))
    assert load_base(str(folder)).fingerprint() == expected


def test_a_cache_that_cannot_be_written_does_no_harm(folder, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("in the way")
    loaded = load_base(str(folder))
    assert loaded.fingerprint() == fingerprint(loaded.model, loaded.config)
