"""Reads a text under several selections, and keeps every token's loss and routing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import DataError
from comigs_mlx.model.routing import Routing
from comigs_mlx.model.selection import Selection
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training.evaluation import Evaluator, NotFinite, Score

Array = npt.NDArray[Any]
Advance = Callable[[str], None]
"""It is called after each batch, with a few words on what was read."""


@dataclass(frozen=True)
class TextRead:
    """What a text of N predicted tokens is to each selection.

    Attributes:
        losses: Maps a selection's name to the loss of each token, `[N]` nats.
        documents: The document (or window) of each token, `[N]`.
        weights: The weights of the mixture for each token, mean over blocks, `[N, E]`.
        by_block: The mean weights of each block over the tokens, `[L, E]`.
        halves: The same of every second document and of the others, `[2, L, E]`; None
            where there is only one document.
    """

    losses: dict[str, Array]
    documents: Array
    weights: Array
    by_block: Array
    halves: Array | None

    def score(self, name: str) -> Score:
        """Return the losses of one selection, summed by document."""
        numbers, place = np.unique(self.documents, return_inverse=True)
        sums = np.bincount(place, self.losses[name])
        counts = np.bincount(place)
        documents = numbers.tolist()
        return Score(
            dict(zip(documents, sums.tolist(), strict=True)),
            dict(zip(documents, counts.tolist(), strict=True)),
            self.weights.sum(0),
        )


class BlockEvaluator(Evaluator):
    """An `Evaluator` whose weights are those of every block, `[B, T, L, E]`."""

    def _weights(self, routing: Routing) -> mx.array:
        return routing.weights.transpose(1, 2, 0, 3)


def single_experts(options: ExpertOptions) -> dict[str, Selection]:
    """Map each expert's name to the selection in which it speaks alone."""
    named = {"generalist": options.generalists, "specialist": options.specialists}
    found: dict[str, Selection] = {}
    for index, name in enumerate(options.names):
        alone = named.get(name) == 1
        weights = tuple(float(e == index) for e in range(options.experts))
        found[name] = name if alone else weights
    return found


def read(
    evaluator: Evaluator,
    batches: Sequence[Batch],
    selections: Mapping[str, Selection],
    advance: Advance,
) -> TextRead:
    """Read all batches once for each selection, `auto` among them.

    Args:
        evaluator: The `BlockEvaluator` of the mixture.
        batches: The text; see `resampling_units`.
        selections: Maps a name to what is selected; the routing is that of `auto`.
        advance: It is called after each batch.

    Raises:
        NotFinite: If a loss or a weight is not a finite number.
        DataError: If no token is predicted.
    """
    losses: dict[str, Array] = {}
    routed: list[Array] = []
    used = [batch.mask > 0 for batch in batches]
    if not any(mask.any() for mask in used):
        raise DataError("there is nothing to measure: no token is predicted")
    for name, selection in selections.items():
        parts = []
        for batch, mask in zip(batches, used, strict=True):
            found, weights = evaluator.batch_losses(batch, selection)
            parts.append(found[mask].astype(np.float64))
            if selection == "auto":
                routed.append(weights[mask])  # [tokens, L, E]
            advance(name)
        losses[name] = np.concatenate(parts)
        if not np.isfinite(mean := float(losses[name].mean())):
            raise NotFinite(selection, mean)
    documents = np.concatenate(
        [batch.documents[mask] for batch, mask in zip(batches, used, strict=True)]
    )
    return _with_routing(losses, documents, routed)


def _with_routing(
    losses: dict[str, Array], documents: Array, routed: Sequence[Array]
) -> TextRead:
    """Sum the weights up block by block; `routed` are arrays `[tokens, L, E]`."""
    _, number = np.unique(documents, return_inverse=True)
    odd, start = number % 2 == 1, 0
    sums = np.zeros((2, *routed[0].shape[1:]))
    for part in routed:
        side = odd[start : start + len(part)]
        for half in (False, True):
            sums[int(half)] += part[side == half].sum(0, dtype=np.float64)
        start += len(part)
    counts = np.array([(~odd).sum(), odd.sum()])
    halves = sums / counts[:, None, None] if counts.all() else None
    weights = np.concatenate([part.mean(1, dtype=np.float64) for part in routed])
    return TextRead(losses, documents, weights, sums.sum(0) / len(documents), halves)
