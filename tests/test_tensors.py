"""Safetensors through Python's files: the reason of a failure is known."""

import os

import mlx.core as mx
import pytest

from comigs_mlx import tensors

ARRAYS = {"b": mx.arange(6).reshape(2, 3), "a": mx.ones(3, mx.bfloat16)}


def test_what_is_written_is_what_mlx_writes(tmp_path):
    mine, theirs = tmp_path / "mine.safetensors", tmp_path / "theirs.safetensors"
    tensors.save(mine, ARRAYS, {"step": "3"})
    mx.save_safetensors(str(theirs), ARRAYS, {"step": "3"})
    assert mine.read_bytes() == theirs.read_bytes()
    loaded, metadata = tensors.load(mine)
    assert metadata["step"] == "3"
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        assert mx.array_equal(loaded[name], array)


def test_a_name_that_is_not_utf_8(tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    tensors.save(file, ARRAYS)
    assert tensors.load(file)[0].keys() == ARRAYS.keys()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_a_full_disk_is_named(tmp_path):
    (link := tmp_path / "values.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        tensors.save(link, ARRAYS)
    assert caught.value.filename == str(link)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100])
def test_what_is_no_safetensors_file(tmp_path, content):
    (file := tmp_path / "values.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="."):
        tensors.load(file)


def test_a_file_that_is_cut(tmp_path):
    tensors.save(file := tmp_path / "values.safetensors", ARRAYS)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="."):
        tensors.load(file)
