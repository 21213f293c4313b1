"""What every format must do, for each one found in the folder.

A format's samples, file name -> content, are `SAMPLES` in its test, or `EXAMPLES`
in the module itself where another package brings it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx import registry
from comigs_mlx.data.formats import GENERAL
from comigs_mlx.data.pieces import Document, Message, Piece, Placed
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.sources import files
from comigs_mlx.errors import DataError

FORMATS = registry.names("format")
PIECES = typing.get_args(Piece)
READING = Reading(me=("Ann",), columns="text=body")
LONG = 10_000_000
"""The bytes of a line that no format may choke on."""


def samples(name: str) -> dict[str, bytes]:
    module = registry.load("format", name)
    found: dict[str, Any] | None = getattr(module, "EXAMPLES", None)
    if found is None:
        found = importlib.import_module(f"tests.data.formats.test_{name}").SAMPLES
    assert found, f"give tests/data/formats/test_{name}.py a SAMPLES"
    return {n: c if isinstance(c, bytes) else c.encode() for n, c in found.items()}


def sample(name: str) -> tuple[str, bytes]:
    return next(iter(samples(name).items()))


def pieces(name: str, path: Path) -> list[Any]:
    return list(registry.load("format", name).read(path, READING))


@pytest.mark.parametrize("name", FORMATS)
def test_has_documented_functions_and_a_place_in_the_order(name: str) -> None:
    plugin = registry.load("format", name)
    others = [registry.load("format", n).ORDER for n in FORMATS if n != name]
    assert isinstance(plugin.ORDER, int)
    assert plugin.ORDER not in others
    assert isinstance(plugin.KIND, str)
    assert all(map(inspect.getdoc, (plugin, plugin.matches, plugin.read)))


@pytest.mark.parametrize("name", FORMATS)
def test_claims_its_samples_and_no_other_formats(
    name: str, write: Callable[..., Path]
) -> None:
    plugin = registry.load("format", name)
    for other in FORMATS:
        for file, content in samples(other).items():
            head = files.head_of(write({file: content}, f"{name}-{other}") / file)
            if name == other:
                chosen = files.format_of(head, files.formats())
                assert chosen is plugin, (file, chosen)
            elif plugin.ORDER < GENERAL:
                assert not plugin.matches(head), file


@pytest.mark.parametrize("name", FORMATS)
def test_reads_its_samples_the_same_each_time(
    name: str, write: Callable[..., Path]
) -> None:
    for file, content in samples(name).items():
        path = write({file: content}) / file
        found = pieces(name, path)
        assert found == pieces(name, path)
        assert all(isinstance(piece, PIECES) for piece in found)
        assert all(piece.place.startswith(str(path)) for piece in found)
        assert any(isinstance(piece, Document | Message | Placed) for piece in found)


def hostile(content: bytes) -> dict[str, bytes]:
    """Files that are damaged, or were never what their name says."""
    noise = random.Random(0).randbytes(50_000)
    sizes = [len(content) * part // 7 for part in range(7)]
    half = len(content) // 2
    return {
        **{f"cut at {size}": content[:size] for size in sizes},
        "noise": noise,
        "sample and noise": content[:half] + noise + content[half:],
        "zero bytes": content[:half] + b"\0\0\0" + content[half:],
        "nothing but zero bytes": bytes(5000),
        "long line": content + b"x" * LONG,
        "deep": b"[" * 100_000,
    }


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_files_are_refused_in_one_way(name: str, tmp_path: Path) -> None:
    file, content = sample(name)
    path = tmp_path / Path(file).name
    for what, raw in hostile(content).items():
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            found = pieces(name, path)
            assert all(isinstance(piece, PIECES) for piece in found), what


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / Path(sample(name)[0]).name
    with pytest.raises(DataError, match="cannot be read"):
        pieces(name, path)
    path.symlink_to(path)
    with pytest.raises(DataError, match="cannot be read"):
        pieces(name, path)
