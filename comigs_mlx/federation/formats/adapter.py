"""The current generalists as files: plain mlx-lm adapters, written and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx import expert_shape
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats import encoding
from comigs_mlx.federation.formats.manifest import Manifest, Shapes
from comigs_mlx.federation.formats.strict_json import shown
from comigs_mlx.federation.formats.tensor_file import (
    Layout,
    Spec,
    read_layout,
    read_shapes,
    read_tensor,
)
from comigs_mlx.federation.formats.tensor_source import (
    ADAPTER,
    Array,
    by_file,
    digest,
    file_of,
    linears,
)
from comigs_mlx.tensors import from_bytes, serialise

CONFIG = "adapter_config.json"
NAMED, MOST_NAMED = 500, 64 * 2**20
"""The most bytes that one tensor, and all of them, may take in a file's header."""


def files(
    tensors: Mapping[str, npt.NDArray[Any]], manifest: Manifest
) -> dict[str, Any]:
    """Return path and content of every adapter file, configurations included."""
    contents: dict[str, Any] = {}
    for path, names in by_file(sorted(tensors)).items():
        values = {
            inner: np.asarray(tensors[name], np.float32)
            for inner, name in names.items()
        }
        contents[path] = serialise(values, {"format": "mlx"})
        config = adapter_config(values, manifest)
        content = json.dumps(config, indent=2, sort_keys=True) + "\n"
        contents[path.replace(ADAPTER, CONFIG)] = content.encode()
    return contents


def adapter_config(names: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return what mlx-lm's adapter loader needs; keys are relative to a block."""
    shape, paths = manifest.experts, linears(names)
    keys = [t for t in shape.targets if any(p.endswith(f".{t}") for p in paths)]
    return expert_shape.adapter_config(shape, manifest.base_model.id, keys)


def paths(manifest: Manifest) -> list[str]:
    """List the adapter files that a federation of this manifest has."""
    return expert_shape.adapter_paths(manifest.experts.generalists)


def read(
    contents: Mapping[str, bytes],
    manifest: Manifest,
    own: Shapes | None = None,
    stated: str | None = None,
) -> dict[str, Array]:
    """Read the tensors of a federation's current generalists, by name.

    Args:
        contents: Maps each adapter file to its content.
        manifest: The manifest of the federation.
        own: The shapes of this participant's generalists, which they must have; None
            takes any that the manifest allows (for one who only closes rounds).
        stated: The digest that round.json states, or None where it states none.

    Raises:
        FederationError: If they cannot be used; the text gives the reason.
    """
    shapes = _shapes(contents, manifest) if own is None else own
    try:
        return check_generalist(contents, shapes, stated)
    except FederationError as error:
        raise FederationError(
            f"the federation's generalists cannot be used: {error}; this run "
            "may have experts of another shape, or the repository is damaged"
        ) from None


def check_generalist(
    files: Mapping[str, bytes], own: Shapes, stated: str | None = None
) -> dict[str, Array]:
    """Read a federation's generalists, if everybody may use them.

    What is pulled and what a round publishes both pass here, so that nothing is ever
    published that nobody could pull.

    Args:
        files: The content of each adapter file, by its path in the repository.
        own: The shapes that the tensors must have: those of this participant's
            generalists, or of the generalists that the round started from.
        stated: The digest that round.json states (see `tensor_source.digest`), or None
            where it states none.

    Returns:
        The float32 values of each tensor.

    Raises:
        FederationError: If they cannot be used; the text is one short line.
    """
    expected = encoding.expected(own, "fp32")
    if files.keys() != expected.keys():
        stranger = sorted(files.keys() ^ expected.keys())[0]
        raise FederationError(f"{shown(stranger)} is missing or not expected")
    layouts = {file: finite_layout(files[file], expected[file]) for file in files}
    values = {
        name: read_tensor(files[file], layouts[file].entries[inner])
        for file, names in by_file(own).items()
        for inner, name in names.items()
    }
    if stated is not None and digest(values) != stated:
        raise FederationError("they are not those that round.json states")
    return values


def finite_layout(content: bytes, expected: Mapping[str, Spec]) -> Layout:
    """Find the tensors in a file by our own strict reading and by the library's.

    Args:
        content: The content of the whole file.
        expected: The dtype and shape that each tensor in it must have.

    Raises:
        FederationError: If the two readings differ, or a number is not finite; the
            text is one short line.
    """
    layout = read_layout(content, expected)
    if not layout.metadata.keys() <= {"format", "encoding", "step"}:
        raise FederationError("unknown metadata in a tensor file")
    try:
        loaded = from_bytes(content)
    except ValueError as error:
        raise FederationError(f"not a safetensors file: {shown(error)}") from None
    for name, spec in expected.items():
        if loaded[name].shape != spec.shape or not np.isfinite(loaded[name]).all():
            raise FederationError(f"{shown(name)} is not finite")
    return layout


def check_shapes(shapes: Shapes, manifest: Manifest) -> None:
    """Raise `FederationError` unless a manifest describes tensors of these shapes."""
    rank, pairs = manifest.experts.rank, linears(shapes)
    expected = {f"{path}.{part}" for path in pairs for part in ("lora_a", "lora_b")}
    fits = all(
        expert_shape.TENSOR.fullmatch(name)
        and len(shape) == 2
        and shape[1 if name.endswith("a") else 0] == rank
        for name, shape in shapes.items()
    )
    strangers = {file_of(name) for name in shapes} ^ set(paths(manifest))
    if not shapes or not fits or expected != set(shapes) or strangers:
        raise FederationError(
            f"the generalists are not LoRA pairs of rank {rank} in "
            f"{', '.join(paths(manifest))}, as federation.json says: ask who made the "
            "federation"
        )


def _shapes(contents: Mapping[str, bytes], manifest: Manifest) -> Shapes:
    """Read the shapes that the files claim, and check that the manifest allows them."""
    experts, claimed = manifest.experts, {}
    tensors = 2 * experts.num_layers * max(len(experts.targets), 1)
    for path, content in contents.items():
        try:
            shapes = read_shapes(content, 4096 + min(tensors * NAMED, MOST_NAMED))
        except FederationError:
            raise FederationError(
                f"{path} of the federation is damaged: go back to an earlier commit"
            ) from None
        for name, shape in shapes.items():
            claimed[path.removesuffix(ADAPTER) + name] = shape
    check_shapes(claimed, manifest)
    return claimed
