"""Identifies base models by a fingerprint, which is remembered while no file
changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx import json_files
from comigs_mlx.files import cache_dir, write_json
from comigs_mlx.model.params import flatten

SETTLED_SECONDS = 2.0
"""The age below which a file may change again without a new time stamp."""

RECIPE = 1
"""The number that goes up when `fingerprint` changes for any model."""

BOOKKEEPING = {
    # who wrote the file
    "architectures",
    "auto_map",
    "transformers_version",
    # the tensors themselves say it
    "dtype",
    "torch_dtype",
    # how to generate, not what is computed; often overridden by another file
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}
"""The configuration keys that differ between copies of one model and change no
output.
"""


def fingerprint(model: nn.Module, config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a bare base model, 64 hexadecimal digits.

    It covers the configuration without `BOOKKEEPING`, and the name, dtype, shape and
    every bit of every parameter. It does not depend on how files are cut and named, on
    the order of anything, or on the device.

    Args:
        model: The base as `load_base` returns it, before experts are attached.
        config: The configuration of the model.
    """
    essence = json.dumps(_essential(config), sort_keys=True)
    return array_digest(flatten(model.parameters()), essence)


def array_digest(arrays: Mapping[str, mx.array], essence: str = "") -> str:
    """Hash `essence`, and the name, dtype, shape and bits of every array."""
    digest = hashlib.sha256(essence.encode())
    for name, array in sorted(arrays.items()):
        content: Any = mx.view(array.reshape(-1), mx.uint8)
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _essential(value: Any) -> Any:
    """Drop what differs between copies: also null entries, and 1.0 becomes 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_essential(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    dropped = {key for key in value if key.startswith("_") or value[key] is None}
    # mlx-lm writes the same settings under both names.
    if value.get("quantization_config") == value.get("quantization"):
        dropped.add("quantization_config")
    essential_keys = value.keys() - dropped - BOOKKEEPING
    return {key: _essential(value[key]) for key in essential_keys}


def state(path: Path) -> str | None:
    """Hash what changes with any file of a model folder, without reading the files.

    It covers the name, size, inode and both time stamps of every file in the folder,
    and the versions of the code that turns them into parameters.

    Returns:
        64 hexadecimal digits; None where the files are too young for their time stamps
        to be trusted, or cannot be looked at.
    """
    try:
        files = [(file.name, file.stat()) for file in sorted(path.iterdir())]
        versions = [RECIPE, *map(importlib.metadata.version, ("mlx", "mlx-lm"))]
    except (OSError, importlib.metadata.PackageNotFoundError):
        return None
    newest = max((max(s.st_mtime, s.st_ctime) for _, s in files), default=0.0)
    if time.time() - newest < SETTLED_SECONDS:
        return None
    # ctime, which no program can set, shows a file restored with its old mtime.
    facts = [
        (name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for name, s in files
    ]
    return hashlib.sha256(json.dumps([versions, facts]).encode()).hexdigest()


def recall(path: Path, files: str) -> str | None:
    """Return the fingerprint remembered for a model folder in this `state`, if any."""
    entry = json_files.known(_memory(path))
    digest = entry.get("fingerprint") if entry.get("files") == files else None
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def remember(path: Path, files: str, digest: str) -> None:
    """Remember a fingerprint, one for each folder; a failure does no harm."""
    with contextlib.suppress(OSError):
        write_json(_memory(path), {"files": files, "fingerprint": digest})


def _memory(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_dir() / "fingerprints" / f"{name}.json"
