"""The limits of the indexes into a base model's tables.

MLX compares no index with the table it indexes: an index beyond the end reads whatever
memory lies there, and the result looks like any other. So the sizes are read off the
model itself (not its `config.json`, which may say something else), once, and all code
that passes token ids or lengths to a model compares them here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.model.attach import mix_in_class

EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)

FOREIGN = (
    "its tokenizer and its weights do not belong together; use those of one model, or "
    "resize its embedding"
)
"""The advice where a tokenizer made the ids."""

GIVEN = "give ids of this model's own tokenizer"
"""The advice where the user gave them."""

PROBE = (1, 0, 1)
"""The token ids of the dry run; no positions are numbered like this."""


@dataclass(frozen=True)
class Tables:
    """The sizes of one model's tables.

    Attributes:
        vocabulary: The number of token ids that are known: rows of the embedding, or
            logits where these are fewer; None where neither could be found.
        positions: The tokens that can be read at once; None where positions are
            computed (RoPE) and not looked up.
    """

    vocabulary: int | None = None
    positions: int | None = None

    def check_tokens(
        self, tokens: Any, what: str = "the text", fix: str = FOREIGN
    ) -> None:
        """Refuse token ids that the model does not know.

        Args:
            tokens: The token ids, integers of any shape: a NumPy array, or a list.
            what: The name of what they come from, for the error.
            fix: The advice that the error gives; by default for a tokenizer's ids.

        Raises:
            ModelError: If an id is negative or too large; the text names the worst one.
        """
        ids = np.asarray(tokens)
        if self.vocabulary is None or not ids.size:
            return
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self.vocabulary:
            raise ModelError(
                f"{what} has token id {least if least < 0 else most}, the base model "
                f"knows the ids 0 to {self.vocabulary - 1}: {fix}"
            )

    def check_length(
        self, count: int, what: str = "a sequence", fix: str = "shorten it"
    ) -> None:
        """Refuse more tokens at once than the model has positions for.

        Args:
            count: The tokens that are read at once, those in a cache included.
            what: The name of what has that many tokens, for the error.
            fix: The advice that the error gives.

        Raises:
            ConfigError: If there are too many tokens.
        """
        if self.positions is not None and count > self.positions:
            raise ConfigError(
                f"{what} of {count:,} tokens is longer than the base model's table of "
                f"{self.positions:,} positions: {fix}"
            )


def tables_of(model: nn.Module) -> Tables:
    """Find the tables of a model in one dry run, of which nothing is computed.

    A table that is indexed with the tokens themselves is the embedding; a table indexed
    with consecutive numbers holds positions. Of a model that cannot be run like that,
    no tables are known.
    """
    calls: list[tuple[int, mx.array]] = []
    tokens, undo = mx.array([PROBE]), list[Callable[[], None]]()
    try:
        for _, module in model.named_modules():
            if isinstance(module, EMBEDDINGS):
                undo.append(mix_in_class(module, _watching(calls)))
        logits = model(tokens)
        width = [int(logits.shape[-1])]
    except Exception:  # each family fails in its own way, and says so when it is used
        width = []
    finally:
        for restore in undo:
            restore()
    return Tables(_vocabulary(calls, tokens, width), _positions(calls))


def _watching(calls: list[tuple[int, mx.array]]) -> type[Any]:
    """Make a class to mix in before an embedding's, which records rows and indexes."""

    class Watched:
        weight: mx.array

        def __call__(self, indexes: mx.array) -> mx.array:
            calls.append((self.weight.shape[0], indexes))
            y: mx.array = super().__call__(indexes)  # type: ignore[misc]
            return y

    return Watched


def _vocabulary(
    calls: list[tuple[int, mx.array]], tokens: mx.array, width: list[int]
) -> int | None:
    """Return the smallest of the tables indexed with the tokens, and of the logits.

    If no table is indexed with the token array itself, those indexed with copies count.
    """
    rows = [rows for rows, indexes in calls if indexes is tokens]
    copies = [
        rows for rows, indexes in calls if indexes.reshape(-1).tolist() == [*PROBE]
    ]
    return min([*(rows or copies), *width], default=None)


def _positions(calls: list[tuple[int, mx.array]]) -> int | None:
    """Count the rows from the first position that is looked up."""
    steps = len(PROBE) - 1
    counts = []
    for rows, indexes in calls:
        numbers: Any = indexes.reshape(-1).tolist()
        if numbers == list(range(numbers[0], numbers[0] + steps + 1)):
            counts.append(rows - numbers[0])
    return min(counts, default=None)
