"""Reads safetensors files of strangers: the header is checked before any value is read.

`comigs_mlx.tensors` describes the format and opens and writes the files. This module
reads the header alone, up to a length that is settled beforehand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.strict_json import parse, shown
from comigs_mlx.tensors import METADATA

FileContent = bytes | Path
"""A file's content in memory, or its path on this device."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class Spec(NamedTuple):
    """The dtype and shape that a tensor of a file must have."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of its values."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


class TensorEntry(NamedTuple):
    """A tensor of a file; `begin` counts bytes from the start of the file."""

    spec: Spec
    begin: int


@dataclass(frozen=True)
class Layout:
    """The places of all tensors in a file.

    Attributes:
        entries: Maps each tensor to its dtype, shape and place.
        metadata: The texts of the file's metadata, by name.
        size: The bytes of the whole file.
    """

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    size: int


def specs(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, Spec]:
    """Return the specs of arrays, by name."""
    return {name: Spec(_CODES[a.dtype], a.shape) for name, a in tensors.items()}


def read_layout(content: bytes, expected: Mapping[str, Spec]) -> Layout:
    """Locate the tensors in a file that must hold exactly the expected ones.

    Only the header of the file is read, and that only up to the length that the
    expected tensors can need.

    Raises:
        FederationError: If anything is not as expected; the text is a few words.
    """
    length = int.from_bytes(content[:8], "little")
    most = 4096 + sum(200 + len(name) for name in expected)
    if len(content) < 8 or length < 2 or length > min(most, len(content) - 8):
        raise FederationError("not a safetensors file of the expected tensors")
    layout = _layout(content[8 : 8 + length])
    if layout.size != len(content):
        raise FederationError("the tensors do not fill the file exactly")
    _compare(layout, expected)
    return layout


def read_shapes(content: bytes, most: int) -> dict[str, tuple[int, ...]]:
    """Read the shape of each tensor of a file, from a header of at most `most` bytes.

    Raises:
        FederationError: If it is longer, or no such file; the text is a few words.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(most, len(content) - 8):
        raise FederationError("not a safetensors file of the expected tensors")
    layout = _layout(content[8 : 8 + length])
    if layout.size != len(content):
        raise FederationError("the tensors do not fill the file exactly")
    return {name: entry.spec.shape for name, entry in layout.entries.items()}


def read_tensor(content: FileContent, entry: TensorEntry) -> npt.NDArray[Any]:
    """Read the values of one tensor, which cannot be written to.

    Raises:
        FederationError: If a file on this device has become unreadable.
    """
    spec = entry.spec
    try:
        if isinstance(content, bytes):
            data, begin = content, entry.begin
        else:
            with content.open("rb") as file:
                file.seek(entry.begin)
                data, begin = file.read(spec.size), 0
        flat = np.frombuffer(data, DTYPES[spec.dtype], prod(spec.shape), begin)
    except (OSError, ValueError) as error:
        raise FederationError(f"cannot read {content!r}: {error}") from error
    return flat.reshape(spec.shape)


# Contributions to one round mostly have the same header: a thousand of them share it.
@functools.lru_cache(maxsize=4)
def _layout(header: bytes) -> Layout:
    if not header.startswith(b"{"):
        raise FederationError("not a safetensors header")
    value: dict[str, Any] = parse(header, len(header))
    metadata = value.pop(METADATA, {})
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise FederationError("metadata that is not text")
    start = 8 + len(header)
    entries, ends = {}, []
    for name, tensor in value.items():
        spec, begin, end = _tensor(name, tensor)
        entries[name] = TensorEntry(spec, start + begin)
        ends.append((begin, end))
    return Layout(entries, metadata, start + _covered(ends))


def _tensor(name: str, tensor: Any) -> tuple[Spec, int, int]:
    match tensor:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            numbers = [*shape, begin, end]
            are_counts = all(type(number) is int and number >= 0 for number in numbers)
            if are_counts and len(tensor) == 3 and dtype in DTYPES and len(shape) <= 8:
                spec = Spec(dtype, tuple(shape))
                if end - begin == spec.size:
                    return spec, begin, end
    raise FederationError(f"tensor {shown(name)} is not described as it should be")


def _covered(ranges: Iterable[tuple[int, int]]) -> int:
    """Return where the last range ends, if they lie end to end from 0 on."""
    reached = 0
    for begin, end in sorted(ranges):
        if begin != reached:
            raise FederationError("tensors overlap or leave gaps")
        reached = end
    return reached


def _compare(layout: Layout, expected: Mapping[str, Spec]) -> None:
    for name in layout.entries.keys() ^ expected.keys():
        kind = "unknown" if name in layout.entries else "missing"
        raise FederationError(f"{kind} tensor {shown(name)}")
    for name, spec in expected.items():
        actual = layout.entries[name].spec
        if actual != spec:
            raise FederationError(
                f"{shown(name)} is {actual.dtype} {list(actual.shape)}, expected "
                f"{spec.dtype} {list(spec.shape)}"
            )
