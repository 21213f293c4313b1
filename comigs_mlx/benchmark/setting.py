"""The setting of all cases: the base model, the sizes, and random tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from comigs_mlx.benchmark.shape import BenchShape
from comigs_mlx.data.batches import Batch
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import flatten
from comigs_mlx.model.targets import targets
from comigs_mlx.options import ExpertOptions


@dataclass(frozen=True, eq=False)
class Setting:
    """The base model and the sizes of one benchmark.

    Attributes:
        shape: The sizes to measure with.
        model: The bare base model, frozen; nothing is ever attached to it.
        scratch: The folder that a case may write files to.
    """

    shape: BenchShape
    model: nn.Module
    scratch: Path

    def twin(self) -> nn.Module:
        """Return a model of its own that holds the very same arrays as `model`."""
        shared = flatten(self.model.parameters()).values()
        return copy.deepcopy(self.model, {id(array): array for array in shared})

    def expert_options(self, experts: int) -> ExpertOptions:
        """Return one generalist and `experts` - 1 specialists; top 2 if there are
        two.
        """
        return ExpertOptions(
            generalists=1, specialists=experts - 1, rank=self.shape.rank
        ).resolved()

    def mixture(self, experts: int) -> Mixture:
        """Attach a mixture to a twin of the base."""
        return Mixture(self.twin(), self.expert_options(experts))

    @cached_property
    def targets(self) -> list[str]:
        """The paths, relative to a block, of the linears that a mixture adapts."""
        return targets(self.mixture(1))

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens that the model knows."""
        logits: mx.array = self.model(mx.zeros((1, 1), mx.int32))
        return logits.shape[-1]

    @cached_property
    def shared_bytes(self) -> int:
        """The bytes of the base model's arrays."""
        arrays = flatten(self.model.parameters()).values()
        return sum(array.nbytes for array in arrays)

    def batch(self, index: int) -> Batch:
        """Draw tokens `[batch_size, seq_len + 1]`, all counted; each row is a document.

        The same index gives the same tokens.
        """
        rows, length = self.shape.batch_size, self.shape.seq_len
        rng = np.random.default_rng([1, index])
        tokens = rng.integers(0, self.vocabulary, (rows, length + 1)).astype(np.int32)
        documents = np.repeat(np.arange(rows, dtype=np.int32)[:, None], length, axis=1)
        return Batch(tokens, np.ones((rows, length), np.float32), documents)

    def prompt(self, index: int, length: int) -> mx.array:
        """Draw `[length]` random tokens."""
        rng = np.random.default_rng([2, index])
        return mx.array(rng.integers(0, self.vocabulary, length).astype(np.int32))
