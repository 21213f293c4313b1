"""The current generalists as files: plain mlx-lm adapters, written and read again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.manifest import Manifest, Shapes
from comigs_mlx.federation.formats.tensor_file import read_shapes, serialise
from comigs_mlx.federation.formats.tensor_source import (
    ADAPTER,
    Array,
    by_file,
    file_of,
    linears,
)
from comigs_mlx.federation.rounds.checks import Refused, check_generalist

CONFIG = "adapter_config.json"
NAMED, MOST_NAMED = 500, 64 * 2**20
"""Bytes that one tensor, and all of them, may take in the header of a file."""

TENSOR = re.compile(r"(generalist-[1-9]\d?/)?[\w.]{1,300}\.lora_[ab]", re.ASCII)


def files(
    tensors: Mapping[str, npt.NDArray[Any]], manifest: Manifest
) -> dict[str, Any]:
    """Path -> content of every adapter file, configurations included."""
    made: dict[str, Any] = {}
    for path, names in by_file(sorted(tensors)).items():
        values = {
            inner: np.asarray(tensors[name], np.float32)
            for inner, name in names.items()
        }
        made[path] = serialise(values, {"format": "mlx"})
        config = adapter_config(values, manifest)
        content = json.dumps(config, indent=2, sort_keys=True) + "\n"
        made[path.replace(ADAPTER, CONFIG)] = content.encode()
    return made


def adapter_config(names: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """What mlx-lm's adapter loader needs; keys are relative to a block."""
    shape, paths = manifest.experts, linears(names)
    keys = [t for t in shape.targets if any(p.endswith(f".{t}") for p in paths)]
    return {
        "fine_tune_type": "lora",
        "model": manifest.base_model.id,
        "num_layers": shape.num_layers,
        "lora_parameters": {
            "rank": shape.rank,
            "scale": shape.scale,
            "dropout": 0.0,
            "keys": keys,
        },
    }


def paths(manifest: Manifest) -> list[str]:
    """The adapter files that a federation of this manifest has."""
    more = range(1, manifest.experts.generalists)
    return [ADAPTER, *(f"generalist-{index}/{ADAPTER}" for index in more)]


def read(
    contents: Mapping[str, bytes],
    manifest: Manifest,
    own: Shapes | None = None,
    stated: str | None = None,
) -> dict[str, Array]:
    """Tensor -> values of a federation's current generalists.

    Args:
        contents: Adapter file -> content.
        manifest: Of the federation.
        own: The shapes of this participant's generalists, which they must have; None
            takes any that the manifest allows (for who only closes rounds).
        stated: Their digest, where round.json states it.

    Raises:
        FederationError: If they cannot be used, with the reason.
    """
    found = check_generalist(
        contents, _shapes(contents, manifest) if own is None else own, stated
    )
    if isinstance(found, Refused):
        raise FederationError(
            f"the federation's generalists cannot be used: {found.reason}; this run "
            "may have experts of another shape, or the repository is damaged"
        )
    return found


def check_shapes(shapes: Shapes, manifest: Manifest) -> None:
    """Raise `FederationError` unless a manifest describes tensors of these shapes."""
    rank, pairs = manifest.experts.rank, linears(shapes)
    wanted = {f"{path}.{part}" for path in pairs for part in ("lora_a", "lora_b")}
    fits = all(
        TENSOR.fullmatch(name)
        and len(shape) == 2
        and shape[1 if name.endswith("a") else 0] == rank
        for name, shape in shapes.items()
    )
    strangers = {file_of(name) for name in shapes} ^ set(paths(manifest))
    if not shapes or not fits or wanted != set(shapes) or strangers:
        raise FederationError(
            f"the generalists are not LoRA pairs of rank {rank} in "
            f"{', '.join(paths(manifest))}, as federation.json says: ask who made the "
            "federation"
        )


def _shapes(contents: Mapping[str, bytes], manifest: Manifest) -> Shapes:
    """The shapes that the files claim, where the manifest allows them."""
    experts, found = manifest.experts, {}
    tensors = 2 * experts.num_layers * max(len(experts.targets), 1)
    for path, content in contents.items():
        try:
            shapes = read_shapes(content, 4096 + min(tensors * NAMED, MOST_NAMED))
        except FederationError:
            raise FederationError(
                f"{path} of the federation is damaged: go back to an earlier commit"
            ) from None
        for name, shape in shapes.items():
            found[path.removesuffix(ADAPTER) + name] = shape
    check_shapes(found, manifest)
    return found
