"""Measures a mixture's loss on held-out text, exact to the token, by document.

Every target is predicted once, in windows that do not overlap; sums are kept per
document in float64 (numpy), so the result does not depend on the batch size, and an
interval can be drawn by resampling documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import DataError, ModelError
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture, Tilt
from comigs_mlx.model.params import Tree
from comigs_mlx.model.routing import Routing
from comigs_mlx.model.selection import Selection
from comigs_mlx.platform import cpu_streams
from comigs_mlx.training import parallel
from comigs_mlx.training.losses import token_losses

RESAMPLES = 1000

Floats = npt.NDArray[Any]

RESULTS = {
    "base": "base",
    "generalist": "generalist",
    "specialist": "specialist",
    "auto": "mixture",
}
"""Maps an expert selection to its name in results; fixed weights have a name of
their own.
"""


class NotFinite(ModelError):
    """The error for a measurement that is no finite number: the mean loss was
    `loss`.
    """

    def __init__(self, selection: Selection, loss: float):
        super().__init__(
            f"the loss of {result_name(selection)} is {loss}: values of the base model "
            "or of the experts are not numbers, or so large that their products are "
            "not; use an earlier save (--best), or train again with a lower "
            "--learning-rate"
        )
        self.loss = loss


def result_name(selection: Selection) -> str:
    """Return the name of a selection in results: `mixture`, or `fixed 0.3,0.7`."""
    if isinstance(selection, tuple):
        return f"fixed {','.join(f'{weight:g}' for weight in selection)}"
    return RESULTS[selection]


@dataclass
class Score:
    """Summed losses of the documents seen so far.

    Attributes:
        losses: Maps a document to its summed loss, in nats.
        tokens: Maps a document to its number of predicted tokens.
        weights: The expert weights `[E]`, summed over those tokens, mean over blocks.
    """

    losses: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    weights: Any = 0.0

    def add(self, losses: Any, weights: Any, batch: Batch) -> None:
        """Add one batch: `losses` `[B, T]` in nats, `weights` `[B, T, E]`."""
        used = batch.mask > 0
        for document in np.unique(batch.documents[used]).tolist():
            inside = losses[used & (batch.documents == document)].astype(np.float64)
            self.losses[document] = self.losses.get(document, 0.0) + float(inside.sum())
            self.tokens[document] = self.tokens.get(document, 0) + inside.size
        self.weights = self.weights + weights[used].astype(np.float64).sum(0)

    @property
    def token_count(self) -> int:
        """Number of predicted tokens."""
        return sum(self.tokens.values())

    @property
    def loss(self) -> float:
        """Mean loss over all predicted tokens, nats per token."""
        return math.fsum(self.losses.values()) / max(self.token_count, 1)

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return perplexity_of(self.loss)

    @property
    def share(self) -> list[float]:
        """Mean weight of each expert over tokens and blocks."""
        return [
            float(w) / max(self.token_count, 1) for w in np.atleast_1d(self.weights)
        ]

    @property
    def finite(self) -> bool:
        """Whether the losses and the weights of all documents are numbers."""
        return bool(np.isfinite([self.loss, *np.atleast_1d(self.weights)]).all())

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of the perplexity, over
        documents.
        """
        documents = sorted(self.losses)
        losses = np.array([self.losses[d] for d in documents])
        tokens = np.array([self.tokens[d] for d in documents])
        low, high = resampled_interval(losses, tokens, seed)
        return perplexity_of(low), perplexity_of(high)


def resampled_interval(
    sums: Floats, tokens: Floats, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over tokens.

    Args:
        sums: The sum of each unit that is resampled (a document), `[units]`.
        tokens: The number of tokens in each unit, `[units]`.
        seed: The seed of the draws.
    """
    rng = np.random.default_rng(seed)
    resampled = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[resampled].sum(1) / tokens[resampled].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """How much larger one loss is than another on the same tokens, in nats a token.

    Attributes:
        mean: The difference of the mean losses; below 0 the first one is better.
        interval: The 95 % interval of `mean`; None where there is only one document.
    """

    mean: float
    interval: tuple[float, float] | None

    @property
    def worse(self) -> bool:
        """Whether the first loss is larger, beyond the interval where there is one."""
        return (self.mean if self.interval is None else self.interval[0]) > 0

    @property
    def better(self) -> bool:
        """Whether the first loss is smaller, beyond the interval where there is one."""
        return (self.mean if self.interval is None else self.interval[1]) < 0


def difference(one: Score, other: Score, seed: int = 0) -> Difference:
    """Compare two scores of the same text, document by document.

    The interval is that of paired differences: what makes a document hard for both is
    no part of it.

    Raises:
        ValueError: If the scores are not of the same documents.
    """
    if one.tokens != other.tokens:
        raise ValueError("the scores are of different texts")
    documents = sorted(one.losses)
    sums = np.array([one.losses[d] - other.losses[d] for d in documents])
    tokens = np.array([one.tokens[d] for d in documents])
    mean = math.fsum(sums) / max(one.token_count, 1)
    if len(documents) < 2:
        return Difference(mean, None)
    return Difference(mean, resampled_interval(sums, tokens, seed))


def resampling_units(batches: Sequence[Batch]) -> tuple[list[Batch], str]:
    """Let windows count as documents where there is only one document.

    Returns:
        The batches, and what is resampled: `documents` or `windows`.
    """
    used = [batch.documents[batch.mask > 0] for batch in batches]
    if len(np.unique(np.concatenate(used))) > 1:
        return list(batches), "documents"
    numbered, first = [], 0
    for batch in batches:
        rows = np.arange(first, first + len(batch.tokens), dtype=np.int32)[:, None]
        numbers = np.where(batch.mask > 0, rows, 0).astype(np.int32)
        numbered.append(batch._replace(documents=numbers))
        first += len(batch.tokens)
    return numbered, "windows"


def perplexity_of(loss: float) -> float:
    """Return the exponential of a loss in nats per token; infinite if it is too
    large.
    """
    return math.exp(loss) if loss < 700 else math.inf


class Evaluator:
    """The compiled loss of one mixture, which is used again after its values
    changed.
    """

    def __init__(self, mixture: Mixture, ranks: parallel.Group = parallel.ALONE):
        """Measure a mixture with the processes that share each batch."""
        self.mixture, self.ranks = mixture, ranks
        self._compiled: dict[tuple[Selection, bool], Any] = {}
        state = parallel.State(self._values, self._set_values)
        self._on_all_ranks = ranks.together(self._losses, state)

    def batch_losses(
        self, batch: Batch, selection: Selection, tilt: Tilt | None = None
    ) -> tuple[Any, Any]:
        """Return losses `[B, T]` in nats and expert weights `[B, T, E]` (mean over
        blocks).

        A tilt is an input of what is compiled: another one traces nothing again.
        """
        self.mixture.tables.check_tokens(batch.tokens)
        return self._on_all_ranks(batch.tokens, selection, tilt)

    def _losses(
        self, tokens: Any, selection: Selection, tilt: Any | None
    ) -> tuple[Any, Any]:
        key = (selection, tilt is not None)
        if key not in self._compiled:
            self._compiled[key] = mx.compile(self._run)
        values = params.select(self.mixture.model, params.ROLES)
        given = (values, mx.array(tokens), *([] if tilt is None else [mx.array(tilt)]))
        with self.mixture.selected(selection):
            losses, weights = self._compiled[key](*given)
        self.mixture.model.update(values)
        own = self.ranks.rows(len(tokens))
        with cpu_streams.evaluating(own.stop - own.start):
            mx.eval(losses, weights)
        return np.array(losses), np.array(weights)

    def _values(self) -> dict[str, mx.array]:
        return params.flatten(params.select(self.mixture.model, params.ROLES))

    def _set_values(self, changed: Mapping[str, mx.array]) -> None:
        self.mixture.model.update(params.unflatten(dict(changed)))

    def score(
        self,
        batches: Iterable[Batch],
        selection: Selection = "auto",
        tilt: Tilt | None = None,
    ) -> Score:
        """Add up the losses of all batches under one expert selection.

        Args:
            batches: The batches to measure on.
            selection: The experts that speak.
            tilt: The tilt of the routers' logits, `[layers, E]` or, for each row of the
                one batch there is, `[batch, 1, layers, E]`; None adds nothing.

        Raises:
            NotFinite: If a loss or an expert's weight is not a finite number.
            DataError: If no token is to be predicted.
        """
        score = Score()
        for batch in batches:
            score.add(*self.batch_losses(batch, selection, tilt), batch)
        if not score.token_count:
            raise DataError("there is nothing to measure: no token is predicted")
        if not score.finite:
            raise NotFinite(selection, score.loss)
        return score

    def _run(
        self, values: Tree, tokens: mx.array, tilt: Tilt | None = None
    ) -> tuple[mx.array, mx.array]:
        self.mixture.model.update(values)
        own = self.ranks.share_of(tokens)
        if tilt is not None and tilt.ndim == 4:  # each row has its own
            rows = cpu_streams.each(self._rows, own, self.ranks.share_of(tilt))
        else:
            rows = cpu_streams.each(partial(self._rows, tilt=tilt), own)
        parts = [mx.concatenate(list(part)) for part in zip(*rows, strict=True)]
        losses, weights = self.ranks.whole(parts, tokens.shape[0])
        return losses, weights

    def _rows(self, tokens: mx.array, tilt: Tilt | None) -> tuple[mx.array, mx.array]:
        """Return losses `[rows, T]` and expert weights `[rows, T, E]` of some rows."""
        with self.mixture.tilted(tilt):
            hidden, routing = self.mixture.body(tokens[:, :-1])
        losses = token_losses(self.mixture.head, hidden, tokens[:, 1:])
        return losses, self._weights(routing)

    def _weights(self, routing: Routing) -> mx.array:
        """Return the mean over blocks: `[rows, T, E]`."""
        return routing.weights.sum(0) / max(routing.weights.shape[0], 1)
