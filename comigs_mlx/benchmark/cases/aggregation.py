"""Averages contributions in files: a tensor at a time, against all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from comigs_mlx.benchmark.measure import Makers, Measured, Variant
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread, rate, ratio, spread
from comigs_mlx.federation.aggregation.aggregate import aggregate
from comigs_mlx.federation.formats.tensor_file import (
    Layout,
    read_layout,
    read_tensor,
    specs,
)
from comigs_mlx.federation.formats.tensor_source import Array, Arrays
from comigs_mlx.runs import experts, generalists
from comigs_mlx.tensors import serialise

ORDER = 9
COUNT = 16
SUMMARY = f"the mean of {COUNT} contributions of this model's shape, fp16, from files"
TOKENS = 0
MAIN = ("ratio",)

PLAIN, MEAN = "numpy's mean", "comigs, mean"


@dataclass(frozen=True)
class _File:
    """A contribution in a file on disk, as it is while a round is closed."""

    name: str
    path: Path
    layout: Layout
    tokens: int = 0

    def names(self) -> Sequence[str]:
        return sorted(self.layout.entries)

    def read(self, tensor: str) -> Array:
        stored = read_tensor(self.path, self.layout.entries[tensor])
        return stored.astype(np.float32)


def variants(setting: Setting) -> Makers:
    """Compare numpy's mean of everything loaded with the aggregator `mean`."""
    files = cache(lambda: _written(setting))
    return {PLAIN: lambda: _plain(files()), MEAN: lambda: _ours(files())}


def _written(setting: Setting) -> list[_File]:
    """Write contributions with random values."""
    folder, random = setting.scratch / "aggregation", np.random.default_rng(0)
    experts.write(folder, setting.mixture(1), setting.shape.model, 0)
    start, _ = generalists.read(folder, 1)
    contributions = []
    for index in range(COUNT):
        values = {
            name: random.standard_normal(array.shape, np.float32).astype(np.float16)
            for name, array in start.items()
        }
        file, content = folder / f"{index:02}.safetensors", serialise(values, {})
        file.write_bytes(content)
        contributions.append(
            _File(file.stem, file, read_layout(content, specs(values)))
        )
    return contributions


def _plain(files: list[_File]) -> Variant:
    def run(index: int) -> None:
        del index
        loaded = [load_file(file.path) for file in files]
        for name in loaded[0]:
            np.mean([tensors[name] for tensors in loaded], axis=0, dtype=np.float64)

    return Variant(run)


def _ours(files: list[_File]) -> Variant:
    first = files[0]
    current = Arrays("", {name: first.read(name) for name in first.names()})

    def run(index: int) -> None:
        del index
        for _ in aggregate("mean", files, current).shared:
            pass

    return Variant(run)


def results(measured: dict[str, Measured], setting: Setting) -> dict[str, Spread]:
    """Return seconds, also of one contribution, megabytes per second, ratio to
    numpy's.
    """
    plain, ours = measured[PLAIN].seconds, measured[MEAN].seconds
    paths = (setting.scratch / "aggregation").glob("*.safetensors")
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return {
        "numpy_s": spread(plain),
        "comigs_s": spread(ours),
        "contribution_s": spread([seconds / COUNT for seconds in ours]),
        "mb_per_s": rate(megabytes, ours),
        "ratio": ratio(ours, plain),
    }
