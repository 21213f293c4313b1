"""Safetensors through Python's files: the reason of a failure is known."""

import math
import os

import mlx.core as mx
import pytest
from safetensors import safe_open

from comigs_mlx import tensors

ARRAYS = {"b": mx.arange(6).reshape(2, 3), "a": mx.ones(3, mx.bfloat16)}


def test_what_is_written_is_what_mlx_writes(tmp_path):
    mine, theirs = tmp_path / "mine.safetensors", tmp_path / "theirs.safetensors"
    tensors.save(mine, ARRAYS, {"step": "3"})
    mx.save_safetensors(str(theirs), ARRAYS, {"step": "3"})
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


class TestSameBytes:
    DTYPES = [dtype for dtype in tensors.CODES if dtype != mx.float64]

    def arrays(self):
        shapes = [(), (1,), (2, 3), (0, 4), (3, 1, 2)]
        return {
            f"{index}.{str(dtype)}": mx.arange(math.prod(shape))
            .reshape(shape)
            .astype(dtype)
            for dtype in self.DTYPES
            for index, shape in enumerate(shapes)
        }

    def test_the_order_of_the_dictionary_makes_no_difference(self, tmp_path):
        arrays = self.arrays()
        backwards = dict(reversed(arrays.items()))
        tensors.save(tmp_path / "one", arrays, {"a": "1", "b": "2"})
        tensors.save(tmp_path / "two", backwards, {"b": "2", "a": "1"})
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_the_library_reads_every_type_and_shape_as_mlx_writes_them(self, tmp_path):
        arrays = self.arrays()
        tensors.save(tmp_path / "ours", arrays, {"format": "mlx"})
        mx.save_safetensors(str(tmp_path / "theirs.safetensors"), arrays)
        ours, metadata = tensors.load(tmp_path / "ours")
        theirs = mx.load(str(tmp_path / "theirs.safetensors"))
        assert metadata == {"format": "mlx"}
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            assert ours[name].shape == array.shape
            assert mx.array_equal(ours[name], array).item()
        with safe_open(tmp_path / "ours", "numpy") as opened:
            assert set(opened.keys()) == set(arrays)

    def test_a_transposed_array_is_written_row_by_row(self, tmp_path):
        array = mx.arange(6).reshape(2, 3).T
        tensors.save(tmp_path / "file", {"a": array})
        assert tensors.load(tmp_path / "file")[0]["a"].tolist() == [
            [0, 3],
            [1, 4],
            [2, 5],
        ]
