"""Is a text unlike the text that a run knows? By what the last blocks make of it.

For each block of the last quarter, a descriptor holds what the means of windows over
the MLP's input, x in R^d, are like:

    e(x) = mean of ((x - c) - V V^T (x - c))^2        c: their mean, V: their first
                                                      principal components
    z(x) = (e(x) - mean of e) / (deviation of e)

Mean and deviation of e are those of other windows of the same text, since V fits its
own too well. A window is unlike the text where z > 2 in at least half of those blocks,
for each descriptor of the run; the drift is the share of such windows. A low error is
no drift, so z has its sign.

Source: SEMA, Wang et al., CVPR 2025, arXiv 2403.18886, which trains an autoencoder
d -> 128 -> d for each adapter and grows where the mean z of a batch exceeds 2.
Different here: the best linear autoencoder is computed, not trained (its solution is
known: the principal components); windows take the place of images, and the base model
alone reads them, so that descriptors stay valid while experts learn.

Descriptors are made of private text and stay in RUN/state/descriptors.safetensors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx import tensors
from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import DataError, RunError
from comigs_mlx.files import replacing
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.platform import cpu_streams

COMPONENTS = 128
"""The most components; SEMA's width."""

LIMIT = 2.0
"""The z above which a block finds a window unlike the text."""

FEWEST = 4
"""The fewest windows of a text to fit, and the fewest others to compare with."""

Floats = npt.NDArray[np.float64]


class Descriptor(NamedTuple):
    """What one block makes of one text.

    Attributes:
        center: The mean of the windows, `[d]`.
        components: The principal components of the windows, `[c, d]`.
        errors: Mean and deviation of the error of other windows, `[2]`.
    """

    center: Floats
    components: Floats
    errors: Floats

    def z(self, means: Floats) -> Floats:
        """Say how unlike the text windows with these means `[n, d]` are, `[n]`."""
        mean, deviation = self.errors
        return (_errors(means, self.center, self.components) - mean) / deviation


@dataclass(frozen=True)
class Drift:
    """How unlike what a run knows a text is.

    Attributes:
        z: The z of each block and window, of the descriptor that is nearest to it.
        layers: The blocks, by their numbers among the adapted ones.
    """

    z: Floats
    layers: list[int]

    @property
    def share(self) -> float:
        """The share of windows that at least half of the blocks find unlike."""
        blocks = (self.z > LIMIT).sum(0)
        return float((blocks >= self.z.shape[0] / 2).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the share, and the mean z of each block."""
        means = dict(zip(map(str, self.layers), self.z.mean(1).tolist(), strict=True))
        return {"drift": self.share, "windows": self.z.shape[1], "z": means}


def last_quarter(mixture: Mixture) -> list[int]:
    """The numbers of the blocks in the last quarter of the adapted ones."""
    count = len(mixture.sites)
    return list(range(count - math.ceil(count / 4), count))


def fit(windows: Floats, others: Floats) -> list[Descriptor]:
    """Describe a text for each block.

    Args:
        windows: The means of some of its windows, `[blocks, n, d]`.
        others: Those of others of its windows, `[blocks, m, d]`.

    Raises:
        DataError: If there are too few windows.
    """
    if min(windows.shape[1], others.shape[1]) < FEWEST:
        raise DataError(
            f"too little text to describe: {windows.shape[1]} windows to fit and "
            f"{others.shape[1]} others, at least {FEWEST} each are needed; give more "
            "text, or a lower --seq-len when training"
        )
    return [_descriptor(*pair) for pair in zip(windows, others, strict=True)]


def _descriptor(windows: Floats, others: Floats) -> Descriptor:
    center = windows.mean(0)
    count = min(COMPONENTS, max(1, len(windows) // 4), windows.shape[1] // 2)
    components = np.linalg.svd(windows - center, full_matrices=False)[2][:count]
    errors = _errors(others, center, components)
    spread = max(float(errors.std(ddof=1)), 1e-12)
    return Descriptor(center, components, np.array([errors.mean(), spread]))


def _errors(means: Floats, center: Floats, components: Floats) -> Floats:
    apart = means - center
    rest = apart - (apart @ components.T) @ components
    return np.asarray(np.square(rest).mean(-1))


def compare(
    means: Floats, known: Sequence[Sequence[Descriptor]], layers: list[int]
) -> Drift:
    """Compare windows with all texts that a run knows.

    Args:
        means: The means of windows, `[blocks, n, d]`.
        known: The descriptors of each text, one a block.
        layers: The numbers of the blocks.
    """
    of_texts = [
        [one.z(block) for one, block in zip(text, means, strict=True)] for text in known
    ]
    return Drift(np.array(of_texts).min(0), layers)


def window_means(
    mixture: Mixture,
    batches: Sequence[Batch],
    layers: Sequence[int],
    advance: Callable[[], None] = lambda: None,
) -> Floats:
    """The mean of the MLP's input over each window, in some blocks of the base model.

    Args:
        mixture: The mixture; its experts do not speak.
        batches: The windows.
        layers: The numbers of the blocks.
        advance: Is called after each batch.

    Returns:
        `[blocks, windows, d]`; windows with less than half of the usual number of
        tokens are left out.
    """
    found: list[Floats] = []
    heard: dict[int, mx.array] = {}

    def some_rows(tokens: mx.array, mask: mx.array) -> mx.array:
        mixture.body(tokens[:, :-1])
        counted = mask[..., None]
        total = mx.maximum(counted.sum(1), 1)
        inputs = (heard[layer].astype(mx.float32) for layer in layers)
        return mx.stack([(x * counted).sum(1) / total for x in inputs])

    @mx.compile
    def means_of(tokens: mx.array, mask: mx.array) -> mx.array:
        parts = cpu_streams.each(some_rows, tokens, mask)
        return mx.concatenate(parts, axis=1)

    usual = max((batch.mask.sum(1).max() for batch in batches), default=0)
    with mixture.selected("base"), _listening(mixture, layers, heard):
        for batch in batches:
            mixture.tables.check_tokens(batch.tokens)
            means = means_of(mx.array(batch.tokens), mx.array(batch.mask))
            with cpu_streams.evaluating(len(batch.tokens)):
                mx.eval(means)
            long = batch.mask.sum(1) >= usual / 2
            found.append(np.array(means).astype(np.float64)[:, long])
            advance()
    return np.concatenate(found, axis=1)


@contextlib.contextmanager
def _listening(
    mixture: Mixture, layers: Sequence[int], heard: dict[int, mx.array]
) -> Iterator[None]:
    """Note the input of some blocks' MLPs in every forward pass."""
    routings = {layer: mixture.sites[layer].mlp._routing for layer in layers}
    before = {layer: routing.choose for layer, routing in routings.items()}

    def noted(layer: int, x: mx.array) -> Any:
        heard[layer] = x
        return before[layer](x)

    try:
        for layer, routing in routings.items():
            routing.choose = partial(noted, layer)
        yield
    finally:
        for layer, routing in routings.items():
            routing.choose = before[layer]


def save(file: Path, known: Sequence[Sequence[Descriptor]]) -> None:
    """Write the descriptors of all texts, atomically."""
    arrays = {
        f"{text}.{block}.{name}": mx.array(array.astype(np.float32))
        for text, blocks in enumerate(known)
        for block, descriptor in enumerate(blocks)
        for name, array in descriptor._asdict().items()
    }
    with replacing(file) as temporary:
        tensors.save(temporary, arrays, {"format": "mlx"})


def load(file: Path) -> list[list[Descriptor]]:
    """Read what `save` wrote, one list a text.

    Raises:
        RunError: If the file is damaged.
    """
    advice = "remove it: python -m comigs_mlx.grow makes it anew from the run's text"
    texts: dict[int, dict[int, dict[str, Floats]]] = {}
    with tensors.reading(file, RunError, advice):
        for path, array in tensors.load(file)[0].items():
            text, block, name = path.split(".")
            values = np.array(array).astype(np.float64)
            texts.setdefault(int(text), {}).setdefault(int(block), {})[name] = values
        return [
            [Descriptor(**texts[text][block]) for block in sorted(texts[text])]
            for text in sorted(texts)
        ]
