"""Safetensors: every such file of the package is opened and written here.

The format (github.com/huggingface/safetensors) is 8 bytes with the little-endian length
n, then n bytes of JSON {tensor: {"dtype", "shape", "data_offsets": [begin, end]}}, then
the values. The same arrays give the same bytes here: the writers of MLX and of the
library put tensors or metadata in an order that differs from one process to the next,
so that a repeated push would look new.

MLX's own file access raises RuntimeError without a reason where a disk is full, and
cannot open names that are not UTF-8. So all files go through Python's file objects,
which say which file it was and why. MLX is imported only where its arrays are read,
because whoever checks a stranger's file needs none of it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from comigs_mlx.errors import line
from comigs_mlx.errors import reading as reading

if TYPE_CHECKING:
    import mlx.core as mx

MlxArrays = dict[str, "mx.array"]
NumpyArrays = dict[str, npt.NDArray[Any]]

METADATA = "__metadata__"
"""The entry of the header that holds texts and describes no tensor."""

CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
"""What safetensors calls a type that MLX and NumPy call by the key."""


def save(file: Path, arrays: MlxArrays, metadata: dict[str, str] | None = None) -> None:
    """Write MLX arrays to a file, not atomically (see `files.replacing`).

    Args:
        file: The file to write; one that is there is replaced.
        arrays: The array of each tensor, by its name.
        metadata: The texts of the file's header.

    Raises:
        OSError: If the file cannot be written; the error carries the file's name.
    """
    try:
        with file.open("wb") as opened:
            write(opened, arrays, metadata or {})
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def write(
    opened: BinaryIO, arrays: Mapping[str, mx.array], metadata: Mapping[str, str]
) -> None:
    """Write the content of such a file of MLX arrays to an open file, or to memory."""
    opened.write(_header(arrays, metadata))
    for name in _ordered(arrays):
        opened.write(_content(arrays[name]))


def serialise(
    arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> bytes:
    """Make the file that holds these NumPy arrays; the same content, the same bytes."""
    little = {
        name: array.astype(array.dtype.newbyteorder("<"), copy=False)
        for name, array in arrays.items()
    }
    contents = (little[name].tobytes() for name in _ordered(little))
    return b"".join([_header(little, metadata), *contents])


def load(file: Path) -> tuple[MlxArrays, dict[str, str]]:
    """Read all arrays of a file into MLX, and its metadata.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no whole safetensors file; the text is one line.
    """
    with file.open("rb") as opened:
        return read(opened)


def read(opened: BinaryIO) -> tuple[MlxArrays, dict[str, str]]:
    """Read all arrays of an open file, or of memory, into MLX, and its metadata.

    Raises:
        ValueError: If it is no whole safetensors file; the text is one line.
    """
    import mlx.core as mx

    with _one_error():
        loaded = mx.load(opened, format="safetensors", return_metadata=True)
        arrays, metadata = loaded
        mx.eval(arrays)
    return arrays, metadata  # type: ignore[return-value]


def load_numpy(file: Path) -> tuple[NumpyArrays, dict[str, str]]:
    """Read all arrays of a file into NumPy, and its metadata.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no whole safetensors file; the text is one line.
    """
    with _one_error(), safe_open(file, "numpy") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}
        return arrays, opened.metadata() or {}


def from_bytes(content: bytes) -> NumpyArrays:
    """Read all arrays of a file in memory into NumPy.

    Raises:
        ValueError: If it is no whole safetensors file; the text is one line.
    """
    from safetensors.numpy import load as load_content

    with _one_error():
        arrays: NumpyArrays = load_content(content)
        return arrays


def metadata(file: Path) -> dict[str, str]:
    """Read the texts of a file's header; no tensor is read.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no whole safetensors file; the text is one line.
    """
    with _one_error(), safe_open(file, "numpy") as opened:
        return opened.metadata() or {}


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Turn what MLX and the library raise for a damaged file into `ValueError`."""
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(line(error)) from error


def _ordered(arrays: Mapping[str, Any]) -> list[str]:
    """Sort wide types first, so that every array is aligned, and then by name."""
    return sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))


def _header(arrays: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    """Make the length of the JSON that describes the file, and that JSON."""
    described: dict[str, Any] = {METADATA: dict(sorted(texts.items()))}
    end = 0
    for name in _ordered(arrays):
        array = arrays[name]
        begin, end = end, end + array.nbytes
        described[name] = {
            "dtype": CODES[_type(array)],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _type(array: Any) -> str:
    """Name an array's type: NumPy says `float32`, MLX `mlx.core.float32`."""
    if isinstance(array, np.ndarray):
        return array.dtype.name
    return str(array.dtype).rpartition(".")[2]


def _content(array: mx.array) -> bytes:
    """Give the values row by row; NumPy lacks bfloat16, which is 16 bits all the same.

    Args:
        array: An array of any shape and type.
    """
    import mlx.core as mx

    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.asarray(plain).tobytes()
