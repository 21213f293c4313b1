"""Safetensors through Python's files: the reason of a failure is known."""

import ast
import math
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from comigs_mlx import tensors
from comigs_mlx.errors import ModelError, RunError

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
    DTYPES = [
        getattr(mx, name.replace("bool", "bool_"))
        for name in tensors.CODES
        if name != "float64"
    ]

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


class TestNumpy:
    VALUES = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones(3, np.float16),
        "c": np.arange(4, dtype=np.int8),
    }

    def test_both_writers_give_the_same_bytes(self, tmp_path):
        arrays = {name: mx.array(array) for name, array in self.VALUES.items()}
        tensors.save(file := tmp_path / "file", arrays, {"b": "2", "a": "1"})
        made = tensors.serialise(self.VALUES, {"a": "1", "b": "2"})
        assert file.read_bytes() == made

    def test_all_readers_read_the_same(self, tmp_path):
        content = tensors.serialise(self.VALUES, {"step": "3"})
        (file := tmp_path / "file").write_bytes(content)
        assert tensors.metadata(file) == {"step": "3"}
        found, metadata = tensors.load_numpy(file)
        assert metadata == {"step": "3"}
        for arrays in (found, tensors.from_bytes(content)):
            assert arrays.keys() == self.VALUES.keys()
            for name, array in self.VALUES.items():
                assert arrays[name].dtype == array.dtype
                assert np.array_equal(arrays[name], array)


READERS = {
    "load": tensors.load,
    "load_numpy": tensors.load_numpy,
    "metadata": tensors.metadata,
    "from_bytes": lambda file: tensors.from_bytes(file.read_bytes()),
}


class TestReading:
    """One sentence for a file that cannot be read, whoever reads it."""

    @pytest.mark.parametrize("kind", [RunError, ModelError])
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100])
    def test_a_damaged_file(self, tmp_path, reader, kind, content):
        (file := tmp_path / "values.safetensors").write_bytes(content)
        with (
            pytest.raises(kind) as caught,
            tensors.reading(file, kind, "fetch it again"),
        ):
            READERS[reader](file)
        text = str(caught.value)
        assert text.startswith(f"cannot read {file}, which is damaged or incomplete (")
        assert text.endswith("): fetch it again")
        assert text.isprintable()

    @pytest.mark.parametrize("reader", READERS)
    def test_a_file_that_is_not_there(self, tmp_path, reader):
        file = tmp_path / "values.safetensors"
        with (
            pytest.raises(RunError) as caught,
            tensors.reading(file, RunError, "train again"),
        ):
            READERS[reader](file)
        assert str(caught.value).startswith(f"cannot read {file} (No such file")
        assert "damaged" not in str(caught.value)


PACKAGE = Path(tensors.__file__).parent
ELSEWHERE = {
    "benchmark/cases/aggregation.py",  # measures the library's reader, to compare
    "model/gguf.py",  # lets MLX read GGUF, which is another format
}
"""Modules that may call a reader of tensors themselves."""


def opens_tensors(node):
    match node:
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] == "safetensors"
        case ast.Import(names=names):
            return any(one.name.partition(".")[0] == "safetensors" for one in names)
        case ast.Attribute(value=ast.Name(id="mx"), attr=attr):
            return attr in ("load", "save", "savez", "save_safetensors")
    return False


def test_no_other_module_opens_or_writes_one():
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if any(opens_tensors(node) for node in ast.walk(ast.parse(file.read_text())))
    }
    assert found == {"tensors.py", *ELSEWHERE}
