"""Safetensors files, written and read through Python's own file objects.

MLX's own file access raises RuntimeError without a reason where a disk is full, and
cannot open names that are not UTF-8; Python's says which file and why.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

Arrays = dict[str, mx.array]


def save(file: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a safetensors file, not atomically (see `files.replacing`).

    Args:
        file: Replaced if it is there.
        arrays: Name -> array; written in this order.
        metadata: Texts of the file's header.

    Raises:
        OSError: With the file's name, if it cannot be written.
    """
    try:
        with file.open("wb") as opened:
            mx.save_safetensors(opened, arrays, metadata or {})
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


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
            raise ValueError(" ".join(str(error).split())) from error
    return arrays, metadata  # type: ignore[return-value]
