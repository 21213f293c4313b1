"""The form of a batch, and how windows and samples fill one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from comigs_mlx.data.tokens import Ints, LabelledSample, TokenStream

SHORTEST = 32
"""The smallest padded length, in inputs; the others double up to the sequence length.
"""


class Batch(NamedTuple):
    """B sequences of T inputs, `tokens[:, :-1]`, and T targets, `tokens[:, 1:]`.

    Attributes:
        tokens: The tokens, [B, T + 1] int32.
        mask: 1 where the target counts, else 0, [B, T] float32.
        documents: The number of the target's document (sample, for conversations); 0
            where the target does not count, [B, T] int32.
    """

    tokens: Ints
    mask: npt.NDArray[np.float32]
    documents: Ints


def windows(stream: TokenStream, starts: npt.NDArray[np.int64], seq_len: int) -> Batch:
    """Cut windows of `seq_len` targets; what lies beyond the stream is masked."""
    at = starts[:, None] + np.arange(seq_len + 1)  # [B, T + 1]
    inside = at < len(stream.tokens)
    at = np.where(inside, at, 0)
    tokens = np.where(inside, stream.tokens[at], 0).astype(np.int32)
    documents = np.where(inside, stream.documents[at], 0).astype(np.int32)
    return Batch(tokens, inside[:, 1:].astype(np.float32), documents[:, 1:])


def buckets(samples: Sequence[LabelledSample], seq_len: int) -> dict[int, list[int]]:
    """Map a padded length in inputs to the indices of its samples, if it has any."""
    lengths = [seq_len]
    while (shorter := SHORTEST << (len(lengths) - 1)) < seq_len:
        lengths.insert(-1, shorter)
    buckets: dict[int, list[int]] = {length: [] for length in lengths}
    for index, sample in enumerate(samples):
        inputs = min(len(sample.tokens) - 1, seq_len)
        buckets[next(size for size in lengths if size >= inputs)].append(index)
    return {length: members for length, members in buckets.items() if members}


def grouped(
    buckets: dict[int, list[int]],
    batch_size: int,
    rng: np.random.Generator | None = None,
) -> list[tuple[int, list[int]]]:
    """Return padded length and members of each batch; `rng` shuffles the members."""
    batches = []
    for length, members in buckets.items():
        if rng is not None:
            members = [int(i) for i in rng.permutation(members)]
        for at in range(0, len(members), batch_size):
            batches.append((length, members[at : at + batch_size]))
    return batches


def padded(
    samples: Sequence[LabelledSample], members: list[int], length: int, rows: int
) -> Batch:
    """Put the `members` in the first of `rows` rows, padded to `length` inputs."""
    tokens = np.zeros((rows, length + 1), np.int32)
    mask = np.zeros((rows, length), np.float32)
    documents = np.zeros((rows, length), np.int32)
    for row, member in enumerate(members):
        sample = samples[member]
        tokens_used = sample.tokens[: length + 1]
        tokens[row, : len(tokens_used)] = tokens_used
        mask[row, : len(tokens_used) - 1] = sample.labelled[1 : length + 1]
        documents[row, : len(tokens_used) - 1] = member
    return Batch(tokens, mask, documents * mask.astype(np.int32))
