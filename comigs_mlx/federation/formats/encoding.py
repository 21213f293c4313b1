"""Encodes the tensors of a contribution: fp32, fp16, or int8 with error feedback.

fp32 and fp16 hold the generalist's values. int8 holds its update relative to the
current generalist, one float32 scale for each of the r rank-one terms of a pair (a
column of lora_a, a row of lora_b):

    q = round(x / s),  s = max |x| / 127;   decoded = current + q s

The quantisation residual is returned, and is added to the next round's x (error
feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019).
`x = decoded + residual` holds exactly in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError, raise_all
from comigs_mlx.federation.formats.manifest import Encoding, Shapes
from comigs_mlx.federation.formats.tensor_file import Spec
from comigs_mlx.federation.formats.tensor_source import Array, Source, by_file
from comigs_mlx.tensors import serialise

SCALE = ".scale"
"""The ending of the name of an int8 tensor's scales."""

_DTYPE = {"fp16": "F16", "fp32": "F32", "int8": "I8"}


@dataclass(frozen=True)
class Encoded:
    """The tensor files of a contribution.

    Attributes:
        files: Maps each adapter file to its content.
        residual: Maps each tensor to its quantisation residual, to be added in the next
            round.
    """

    files: dict[str, bytes]
    residual: dict[str, Array]


def encode(
    values: Mapping[str, npt.NDArray[Any]],
    current: Source,
    encoding: Encoding,
    residual: Mapping[str, Array] | None = None,
) -> Encoded:
    """Make the files that carry these generalists; equal values give equal bytes.

    Args:
        values: Maps each tensor to its values, of any float type.
        current: The generalists that `values` started from.
        encoding: The encoding to store them in.
        residual: The residual that an earlier call returned.

    Raises:
        FederationError: If a value is not finite, or too large for the encoding.
    """
    stored: dict[str, npt.NDArray[Any]] = {}
    residuals: dict[str, Array] = {}
    for name, x in _inputs(values, current, encoding, residual or {}).items():
        parts = _store(name, x, encoding)
        stored |= parts
        residuals[name] = x - _restored(parts[name], parts.get(name + SCALE), name)
    _check_finite(residuals)
    metadata = {"encoding": encoding, "format": "mlx"}
    files = {
        file: serialise(
            {inner: stored[name] for inner, name in names.items()}, metadata
        )
        for file, names in by_file(stored).items()
    }
    return Encoded(files, residuals)


def decode(
    name: str,
    stored: npt.NDArray[Any],
    scale: npt.NDArray[Any] | None,
    current: Source,
) -> Array:
    """Restore the float32 values of one stored tensor; `scale` is None but for int8."""
    restored = _restored(stored, scale, name)
    return restored if scale is None else current.read(name) + restored


def expected(shapes: Shapes, encoding: Encoding) -> dict[str, dict[str, Spec]]:
    """Return, for each adapter file, the dtype and shape of each tensor in it."""
    files: dict[str, dict[str, Spec]] = {}
    for file, names in by_file(shapes).items():
        files[file] = {}
        for inner, name in names.items():
            shape = shapes[name]
            files[file][inner] = Spec(_DTYPE[encoding], shape)
            if encoding == "int8":
                scales = Spec("F32", (shape[_rank_axis(name)],))
                files[file][inner + SCALE] = scales
    return files


def _inputs(
    values: Mapping[str, npt.NDArray[Any]],
    current: Source,
    encoding: Encoding,
    residual: Mapping[str, Array],
) -> dict[str, Array]:
    """Return what is to be rounded: values or updates, with the last round's
    residual.
    """
    inputs: dict[str, Array] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # found by _check_finite
        for name, array in values.items():
            x = np.asarray(array, np.float32)
            x = x - current.read(name) if encoding == "int8" else x
            inputs[name] = x + residual[name] if name in residual else x
    _check_finite(inputs)
    return inputs


def _store(name: str, x: Array, encoding: Encoding) -> dict[str, npt.NDArray[Any]]:
    if encoding == "fp32":
        return {name: x}
    if encoding == "fp16":
        with np.errstate(over="ignore"):  # seen as an infinite residual
            return {name: x.astype(np.float16)}
    axis = _rank_axis(name)
    largest = np.abs(x).max(axis=1 - axis, initial=0.0)
    scale = (largest.astype(np.float64) / 127).astype(np.float32)
    steps = np.divide(
        x.astype(np.float64),
        _along(scale, axis).astype(np.float64),
        out=np.zeros(x.shape),
        where=_along(scale, axis) > 0,
    )
    q = np.clip(np.rint(steps), -127, 127).astype(np.int8)
    return {name: q, name + SCALE: scale}


def _restored(
    stored: npt.NDArray[Any], scale: npt.NDArray[Any] | None, name: str
) -> Array:
    values: Array = stored.astype(np.float32)
    return values if scale is None else values * _along(scale, _rank_axis(name))


def _rank_axis(name: str) -> int:
    return 1 if name.endswith(".lora_a") else 0


def _along(scale: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return np.expand_dims(scale, 1 - axis)


def _check_finite(arrays: Mapping[str, Array]) -> None:
    problems = [
        f"{name} is not finite, or too large for the federation's encoding: nothing "
        "was written; go back to an earlier save"
        for name, array in arrays.items()
        if not np.isfinite(array).all()
    ]
    raise_all(FederationError, problems, shown=1)
