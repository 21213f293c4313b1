"""Batches of fixed shapes: windows of a token stream, or padded conversations.

A training source is a pure function of (seed, index), so that an exact resume needs
only a counter; and its batches come in very few shapes, because a compiled step is kept
for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from comigs_mlx.data.content import Content
from comigs_mlx.data.shapes import Batch, buckets, grouped, padded, windows
from comigs_mlx.data.tokens import LabelledSample, TokenStream
from comigs_mlx.errors import DataError

What = TypeVar("What")


class BatchSource(Protocol):
    """Training batches without end."""

    def batch(self, index: int) -> Batch:
        """Return batch number `index` >= 0, the same one whenever it is asked for."""


class RandomWindows:
    """Windows that begin anywhere, uniformly at random (the paper's batches)."""

    def __init__(
        self, stream: TokenStream, seq_len: int, batch_size: int, seed: int
    ) -> None:
        """See `training_batches`; raises `DataError` where no window fits."""
        _check_window(stream, seq_len)
        self._stream, self._seq_len = stream, seq_len
        self._batch_size, self._seed = batch_size, seed

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, [batch_size, seq_len + 1] tokens."""
        rng = np.random.default_rng([self._seed, index])
        possible = len(self._stream.tokens) - self._seq_len
        starts = rng.integers(0, possible, self._batch_size)
        return windows(self._stream, starts, self._seq_len)


class PackedWindows:
    """Consecutive windows in a new order each epoch, each of them once per epoch.

    Windows predict disjoint tokens; the few after the last whole window are left out.
    An epoch may end within a batch, so that no batch is short.
    """

    def __init__(
        self, stream: TokenStream, seq_len: int, batch_size: int, seed: int
    ) -> None:
        """See `training_batches`; raises `DataError` where no window fits."""
        _check_window(stream, seq_len)
        self._stream, self._seq_len = stream, seq_len
        self._batch_size, self._seed = batch_size, seed
        self._windows = (len(stream.tokens) - 1) // seq_len

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, [batch_size, seq_len + 1] tokens."""
        first = index * self._batch_size
        places = range(first, first + self._batch_size)
        starts = [self._window(place) * self._seq_len for place in places]
        return windows(self._stream, np.array(starts), self._seq_len)

    def _window(self, place: int) -> int:
        epoch, at = divmod(place, self._windows)
        return int(_order(self._seed, epoch, self._windows)[at])


class PaddedSamples:
    """Conversations of similar length together, each exactly once per epoch.

    Lengths are padded to 32, 64, 128, ..., seq_len; the rows that a bucket's last batch
    lacks are filled with rows whose mask is 0. Which samples share a batch, and the
    order of the batches, changes from epoch to epoch.

    Attributes:
        lengths: Maps a padded length, in inputs, to its number of batches in an epoch.
    """

    def __init__(
        self,
        samples: Sequence[LabelledSample],
        seq_len: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """See `training_batches`; raises `DataError` where there is no sample."""
        _check_samples(samples)
        self._samples, self._batch_size, self._seed = samples, batch_size, seed
        self._buckets = buckets(samples, seq_len)
        self.lengths = {
            length: -(-len(members) // batch_size)
            for length, members in self._buckets.items()
        }
        self._epoch_batches = sum(self.lengths.values())
        self._plan: tuple[int, list[tuple[int, list[int]]]] = (-1, [])

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, [batch_size, padded length + 1] tokens."""
        epoch, at = divmod(index, self._epoch_batches)
        if self._plan[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            batches = grouped(self._buckets, self._batch_size, rng)
            order = rng.permutation(len(batches))
            self._plan = (epoch, [batches[i] for i in order])
        length, members = self._plan[1][at]
        return padded(self._samples, members, length, self._batch_size)


def training_batches(
    content: Content, *, seq_len: int, batch_size: int, seed: int, packing: bool
) -> tuple[BatchSource, list[str]]:
    """Choose and make the source of training batches.

    Args:
        content: The tokens of one split, as `data.content.tokenised` returns them.
        seq_len: The inputs per sequence, in tokens.
        batch_size: The number of sequences in a batch.
        seed: The seed that, with its index, decides what is in a batch.
        packing: Whether a text is read as consecutive windows, each of them once per
            epoch, instead of as random windows.

    Returns:
        The source, and notes for the user on what to expect of its batches.

    Raises:
        DataError: If the text is shorter than one window.
    """
    if isinstance(content, TokenStream):
        kind_of_source = PackedWindows if packing else RandomWindows
        return kind_of_source(content, seq_len, batch_size, seed), []
    notes = ["packing is for plain text: conversations are padded"] if packing else []
    source = PaddedSamples(content, seq_len, batch_size, seed)
    return source, [*notes, *_shapes_note(source.lengths)]


def _shapes_note(lengths: dict[int, int]) -> list[str]:
    """Tell the user which padded lengths there are, before they slow training down."""
    if len(lengths) == 1:
        return []
    counts = [f"{length} ({count})" for length, count in sorted(lengths.items())]
    counts[0] = counts[0].replace(")", " batches an epoch)")
    return [
        f"{len(lengths)} padded lengths: {', '.join(counts)}: the step is compiled "
        "once for each, and the longest needs the most memory"
    ]


def evaluation_batches(
    content: Content, seq_len: int, batch_size: int
) -> Iterator[Batch]:
    """Yield every target exactly once, in a fixed order.

    A stream is cut into consecutive windows of `seq_len` inputs, each without context
    from the one before; of its N tokens all but the first are predicted. So is a
    conversation that is longer. Short windows and missing rows are padded, so that all
    batches of a stream have one shape.

    Raises:
        DataError: If no token can be predicted.
    """
    if not isinstance(content, TokenStream):
        _check_samples(content)
        return _sample_batches(content, range(len(content)), seq_len, batch_size)
    return _stream_batches(content, _starts(content, seq_len), seq_len, batch_size)


def sampled_batches(
    content: Content, seq_len: int, batch_size: int, count: int
) -> list[Batch]:
    """Draw a sample of `evaluation_batches`, always the same one, to estimate them all.

    `count` batches' worth of windows, or of conversations, are drawn: one from each of
    as many equal parts of the text, at random. So long and short ones, and documents
    from the beginning to the end, have the share that they have in the whole.

    Args:
        content: The tokens of one split, as `evaluation_batches` takes them.
        seq_len: The inputs per sequence, in tokens.
        batch_size: The number of sequences in a batch.
        count: The number of batches; conversations of several padded lengths may need a
            few more.

    Raises:
        DataError: If no token can be predicted.
    """
    if isinstance(content, TokenStream):
        starts = _starts(content, seq_len)
        starts = starts[_spread(len(starts), count * batch_size)]
        return list(_stream_batches(content, starts, seq_len, batch_size))
    _check_samples(content)
    members = _spread(len(content), count * batch_size).tolist()
    return list(_sample_batches(content, members, seq_len, batch_size))


def _spread(count: int, size: int) -> npt.NDArray[np.int64]:
    """Draw `size` of `count` indices, ascending, one from each of as many equal
    parts.
    """
    if size >= count:
        return np.arange(count)
    ends = np.linspace(0, count, size + 1).astype(np.int64)
    return np.random.default_rng(0).integers(ends[:-1], ends[1:])


def _starts(stream: TokenStream, seq_len: int) -> npt.NDArray[np.int64]:
    """Return the starts of windows that predict every token but the first once."""
    if len(stream.tokens) < 2:
        raise DataError(f"expected at least 2 tokens, found {len(stream.tokens)}")
    return np.arange(0, len(stream.tokens) - 1, seq_len)


def _stream_batches(
    stream: TokenStream,
    starts: npt.NDArray[np.int64],
    seq_len: int,
    batch_size: int,
) -> Iterator[Batch]:
    for at in range(0, len(starts), batch_size):
        some = starts[at : at + batch_size]
        # A start at the end of the stream has no target: a row of padding.
        lacking = np.full(batch_size - len(some), len(stream.tokens))
        yield windows(stream, np.concatenate([some, lacking]), seq_len)


def _sample_batches(
    samples: Sequence[LabelledSample],
    members: Sequence[int],
    seq_len: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Yield batches of the samples numbered `members`; longer ones take several
    rows.
    """
    pieces: list[LabelledSample] = []
    owners: list[int] = []
    for member in members:
        windows_of_member = _pieces(samples[member], seq_len)
        pieces += windows_of_member
        owners += [member] * len(windows_of_member)
    of_piece = np.array(owners, np.int32)
    for length, some in grouped(buckets(pieces, seq_len), batch_size):
        batch = padded(pieces, some, length, batch_size)
        documents = np.where(batch.mask > 0, of_piece[batch.documents], 0)
        yield batch._replace(documents=documents.astype(np.int32))


def announced(
    batches: Iterable[Batch], tell: Callable[[What], object], what: What
) -> Iterator[Batch]:
    """Yield batches, and call `tell(what)` after each of them."""
    for batch in batches:
        yield batch
        tell(what)


def _pieces(sample: LabelledSample, seq_len: int) -> list[LabelledSample]:
    """Cut a sample into consecutive windows, and leave out those without a target."""
    pieces = []
    for start in range(0, max(len(sample.tokens) - 1, 1), seq_len):
        window = slice(start, start + seq_len + 1)
        labelled = sample.labelled[window].copy()
        labelled[:1] = False  # the target of the window before
        if labelled.any():
            pieces.append(LabelledSample(sample.tokens[window], labelled))
    return pieces


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _check_window(stream: TokenStream, seq_len: int) -> None:
    if len(stream.tokens) <= seq_len:
        raise DataError(
            f"expected at least {seq_len + 1} tokens for one window, found "
            f"{len(stream.tokens)}: add text, or set --seq-len to at most "
            f"{max(len(stream.tokens) - 1, 1)}"
        )


def _check_samples(samples: Sequence[LabelledSample]) -> None:
    if not samples:
        raise DataError("expected at least one sample, found none")
