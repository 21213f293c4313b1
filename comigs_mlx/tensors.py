"""Safetensors files, written and read through Python's own file objects.

The same arrays give the same bytes: MLX's writer puts them in an order that differs
from one process, and one dictionary, to the next. Its own file access raises
RuntimeError without a reason where a disk is full, and cannot open names that are not
UTF-8; Python's says which file and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from comigs_mlx.errors import line

Arrays = dict[str, mx.array]

CODES = {
    mx.bool_: "BOOL",
    mx.uint8: "U8",
    mx.uint16: "U16",
    mx.uint32: "U32",
    mx.uint64: "U64",
    mx.int8: "I8",
    mx.int16: "I16",
    mx.int32: "I32",
    mx.int64: "I64",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.float32: "F32",
    mx.float64: "F64",
    mx.complex64: "C64",
}
"""What safetensors calls MLX's types."""


def save(file: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a safetensors file, not atomically (see `files.replacing`).

    Args:
        file: Replaced if it is there.
        arrays: Name -> array.
        metadata: Texts of the file's header.

    Raises:
        OSError: With the file's name, if it cannot be written.
    """
    try:
        with file.open("wb") as opened:
            opened.write(_header(arrays, metadata or {}))
            for name in _ordered(arrays):
                opened.write(_content(arrays[name]))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _ordered(arrays: Arrays) -> list[str]:
    """Wide types first, so that every array is aligned; then by name."""
    return sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))


def _header(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    """The length of the JSON that describes the file, and that JSON."""
    described: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in _ordered(arrays):
        array = arrays[name]
        begin, end = end, end + array.nbytes
        described[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _content(array: mx.array) -> bytes:
    """The values, row by row; NumPy has no bfloat16, which is 16 bits all the same."""
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.asarray(plain).tobytes()


def load(file: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a safetensors file, all of them read, and its metadata.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is no whole safetensors file.
    """
    with file.open("rb") as opened:
        try:
            found = mx.load(opened, format="safetensors", return_metadata=True)
            arrays, metadata = found
            mx.eval(arrays)
        except RuntimeError as error:
            raise ValueError(line(error)) from error
    return arrays, metadata  # type: ignore[return-value]
