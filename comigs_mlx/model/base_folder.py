"""Checks the files of a base model's folder before they are read.

mlx-lm's errors for a missing shard, a file that may not be read or a folder with
brackets in its name do not tell the cause. Here each cause has its own sentence and
advice.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx import json_files, tensors
from comigs_mlx.errors import ModelError

ADVICE = "pass another folder or Hub id with --model, or `demo`"

FILES = [
    "*.json",
    "*.jinja",
    "*.tiktoken",
    "*.txt",
    "model*.safetensors",
    "tokenizer.model",
]
"""The files that are read of a model: mlx-lm's selection without its code."""

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")


def check_folder(path: Path) -> None:
    """Refuse a folder on which mlx-lm would fail obscurely, or run foreign code.

    Raises:
        ModelError: If it is refused; the text names the file and says what to do.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{path} is not a model folder (no config.json): {ADVICE}")
    _check_readable(path)
    code = json_files.read(file, ModelError, "fetch the model again").get("model_file")
    if code is not None:
        raise foreign_code(path)
    weights = sorted(path.glob("model*.safetensors"))
    if not weights:
        raise ModelError(
            f"{path} has no model*.safetensors: convert the model with "
            f"`mlx_lm.convert --hf-path {path}` and pass the new folder"
        )
    _check_shards(path, {file.name for file in weights if file.is_file()})
    for file in weights:
        _check_safetensors(file)


def _check_readable(path: Path) -> None:
    for pattern in FILES:
        for file in sorted(path.glob(pattern)):
            if file.exists() and not os.access(file, os.R_OK):
                raise ModelError(
                    f"{file} may not be read by this user: change its permissions, "
                    f"such as with `chmod u+r`, or {ADVICE}"
                )


def _check_shards(path: Path, names: set[str]) -> None:
    """Check that every file that the index, or a shard's name, requires is there."""
    needed = {*_indexed(path / INDEX), *names}
    for shard in map(SHARD.fullmatch, sorted(names)):
        if shard is not None:
            digits, total = len(shard[1]), shard[2]
            numbers = range(1, int(total) + 1)
            needed |= {f"model-{n:0{digits}}-of-{total}.safetensors" for n in numbers}
    if missing := sorted(needed - names):
        raise ModelError(
            f"{path} lacks {len(missing)} of the {len(needed)} files of its weights "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): fetch "
            "the model again"
        )


def _indexed(file: Path) -> set[str]:
    """Return the files that an index names; none if no index can be read."""
    places = json_files.known(file).get("weight_map")
    names = places.values() if isinstance(places, dict) else ()
    return {name for name in names if isinstance(name, str)}


def _check_safetensors(file: Path) -> None:
    with tensors.reading(file, ModelError, "fetch the model again"):
        tensors.metadata(file)


@contextlib.contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Give the folder a name that mlx-lm, which takes it for a pattern, can find.

    It is a link for as long as the `with` lasts, or the path itself if that is no
    pattern.
    """
    if str(path) == glob.escape(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="comigs-") as scratch:
        link = Path(scratch) / "model"
        link.symlink_to(path.absolute(), target_is_directory=True)
        yield link


def foreign_code(path: Path) -> ModelError:
    """Make the error for a model that comes with code."""
    return ModelError(
        f"{path} needs Python code of its own, which is never run: {ADVICE}"
    )
