from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.batches import (
    Batch,
    BatchSource,
    PackedWindows,
    PaddedSamples,
    RandomWindows,
    evaluation_batches,
    sampled_batches,
    training_batches,
)
from comigs_mlx.data.tokens import LabelledSample, TokenStream
from comigs_mlx.errors import DataError


def stream(count: int) -> TokenStream:
    """Tokens 1, 2, 3...; documents of ten tokens."""
    tokens = np.arange(1, count + 1, dtype=np.int32)
    return TokenStream(tokens, (tokens - 1) // 10)


def conversations(lengths: list[int]) -> list[LabelledSample]:
    """Sample i has tokens 1000 i + 1, 1000 i + 2, ...; every second one a target."""
    found = []
    for i, length in enumerate(lengths):
        labelled = np.arange(length) % 2 == 1
        tokens = np.arange(1, length + 1, dtype=np.int32) + 1000 * i
        found.append(LabelledSample(tokens, labelled))
    return found


def counted(batch: Batch) -> list[int]:
    """The tokens that are targets."""
    return [int(t) for t in batch.tokens[:, 1:][batch.mask > 0]]


def same(one: Batch, two: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def check_form(batch: Batch, rows: int) -> None:
    tokens, mask, documents = batch
    assert [a.dtype for a in batch] == [np.int32, np.float32, np.int32]
    assert tokens.shape == (rows, mask.shape[1] + 1)
    assert mask.shape == documents.shape
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert not documents[mask == 0].any()


LENGTHS = [5, 200, 33, 34, 60, 90, 31, 12, 129, 8, 65]
SOURCES: dict[str, Callable[[int], BatchSource]] = {
    "random": lambda seed: RandomWindows(stream(100), 8, 4, seed),
    "packed": lambda seed: PackedWindows(stream(100), 8, 4, seed),
    "padded": lambda seed: PaddedSamples(conversations(LENGTHS), 128, 2, seed),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_batch_depends_on_seed_and_index_alone(name: str) -> None:
    one, two = SOURCES[name](3), SOURCES[name](3)
    forward = [one.batch(i) for i in range(12)]
    backward = [two.batch(i) for i in reversed(range(12))][::-1]
    assert all(map(same, forward, backward))
    other = SOURCES[name](4)
    assert not all(same(other.batch(i), batch) for i, batch in enumerate(forward))
    for batch in forward:
        check_form(batch, len(forward[0].tokens))


def test_random_windows_are_pieces_of_the_stream_and_reach_both_ends() -> None:
    source = RandomWindows(stream(20), 8, 16, 0)
    starts = set()
    for i in range(30):
        tokens, mask, documents = source.batch(i)
        assert (np.diff(tokens) == 1).all()
        assert mask.all()
        assert np.array_equal(documents, (tokens[:, 1:] - 1) // 10)
        starts |= set(tokens[:, 0].tolist())
    assert starts == set(range(1, 13))


@given(st.integers(9, 120), st.integers(1, 8), st.integers(1, 6), st.integers(0, 9))
def test_packing_uses_every_window_once_per_epoch(
    count: int, seq_len: int, batch_size: int, seed: int
) -> None:
    source, windows = (
        PackedWindows(stream(count), seq_len, batch_size, seed),
        ((count - 1) // seq_len),
    )
    batches = -(-3 * windows // batch_size)
    rows = np.concatenate([source.batch(i).tokens for i in range(batches)])
    for epoch in range(3):
        mine = rows[epoch * windows : (epoch + 1) * windows]
        assert sorted(mine[:, 0]) == [1 + seq_len * w for w in range(windows)]
        targets = sorted(mine[:, 1:].ravel().tolist())
        assert targets == list(range(2, 2 + windows * seq_len))


def test_packing_changes_the_order_between_epochs() -> None:
    source = PackedWindows(stream(161), 8, 20, 0)
    first, second = source.batch(0).tokens[:, 0], source.batch(1).tokens[:, 0]
    assert sorted(first) == sorted(second)
    assert first.tolist() != second.tolist()


@settings(max_examples=40)
@given(
    st.lists(st.integers(2, 90), min_size=1, max_size=25),
    st.integers(1, 5),
    st.sampled_from([16, 40, 64]),
    st.integers(0, 9),
)
def test_padding_uses_every_sample_once_per_epoch(
    lengths: list[int], batch_size: int, seq_len: int, seed: int
) -> None:
    samples = conversations(lengths)
    source = PaddedSamples(samples, seq_len, batch_size, seed)
    expected = Counter(int(t) for s in samples for t in s.tokens[: seq_len + 1][1::2])
    widths = [next(w for w in (32, 64, 90) if n <= w + 1) for n in lengths]
    widths = [min(width, seq_len) for width in widths]
    epoch = sum(-(-count // batch_size) for count in Counter(widths).values())
    for first in (0, epoch):
        batches = [source.batch(first + i) for i in range(epoch)]
        assert Counter(t for b in batches for t in counted(b)) == expected
        for batch in batches:
            check_form(batch, batch_size)
            assert batch.mask.shape[1] in widths
            documents = batch.documents[batch.mask > 0]
            assert [t // 1000 for t in counted(batch)] == documents.tolist()


def test_padding_puts_similar_lengths_together_in_few_shapes() -> None:
    source = PaddedSamples(conversations([*range(2, 130)] * 2), 128, 4, 0)
    widths = Counter()
    for i in range(64):
        batch = source.batch(i)
        width = batch.mask.shape[1]
        widths[width] += 1
        used = (batch.tokens[:, 1:] > 0).sum(axis=1)
        assert (used[used > 0] > (width // 2 if width > 32 else 0)).all()
    assert widths == {32: 16, 64: 16, 128: 32}


def test_padding_regroups_and_reorders_between_epochs() -> None:
    source = PaddedSamples(conversations([20] * 12), 32, 3, 0)
    epochs = [
        [frozenset(np.unique(source.batch(4 * e + i).documents)) for i in range(4)]
        for e in range(2)
    ]
    assert set(epochs[0]) != set(epochs[1])
    mixed = PaddedSamples(conversations([20, 40, 80] * 6), 128, 1, 0)
    orders = [
        [mixed.batch(18 * e + i).mask.shape[1] for i in range(18)] for e in range(2)
    ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 5))
def test_evaluation_predicts_every_token_but_the_first_once(
    count: int, seq_len: int, batch_size: int
) -> None:
    batches = list(evaluation_batches(stream(count), seq_len, batch_size))
    targets = [t for batch in batches for t in counted(batch)]
    assert targets == list(range(2, count + 1))
    assert sum(int(b.mask.sum()) for b in batches) == count - 1
    for batch in batches:
        check_form(batch, batch_size)
        assert batch.tokens.shape == (batch_size, seq_len + 1)
        assert batch.mask.any()
        documents = batch.documents[batch.mask > 0]
        assert documents.tolist() == [(t - 1) // 10 for t in counted(batch)]
        before = batch.tokens[:, :-1][batch.mask > 0]
        assert before.tolist() == [t - 1 for t in counted(batch)]


def test_evaluation_of_conversations_is_complete_and_repeatable() -> None:
    samples = conversations(LENGTHS)
    batches = list(evaluation_batches(samples, 128, 2))
    again = evaluation_batches(samples, 128, 2)
    assert all(map(same, batches, again))
    expected = sorted(int(t) for s in samples for t in s.tokens[1::2])
    assert sorted(t for b in batches for t in counted(b)) == expected
    for batch in batches:
        check_form(batch, 2)
        owners = [(t - 1) // 1000 for t in counted(batch)]
        assert batch.documents[batch.mask > 0].tolist() == owners
        before = batch.tokens[:, :-1][batch.mask > 0].tolist()
        assert before == [t - 1 for t in counted(batch)]


@settings(deadline=None)  # other work on the machine is no fault
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.integers(1, 50),
    st.integers(1, 4),
)
def test_conversations_of_any_length_are_measured_whole(
    lengths: list[int], seq_len: int, batch_size: int
) -> None:
    samples = conversations(lengths)
    batches = evaluation_batches(samples, seq_len, batch_size)
    expected = sorted(int(t) for s in samples for t in s.tokens[1::2])
    assert sorted(t for b in batches for t in counted(b)) == expected


class TestSample:
    """What the best save is chosen by is a fair part of the validation text."""

    def test_of_text_comes_from_its_beginning_to_its_end(self) -> None:
        batches = sampled_batches(stream(10_001), 10, 5, 4)
        assert len(batches) == 4
        firsts = [int(row[0]) for batch in batches for row in batch.tokens]
        assert len(firsts) == 20
        # One of each twentieth: windows of the whole, in which 50 begin.
        assert [(first - 1) // 500 for first in firsts] == list(range(20))
        assert all((first - 1) % 10 == 0 for first in firsts)

    def test_of_conversations_has_short_and_long_ones_in_their_share(self) -> None:
        samples = conversations([120] * 400 + [10] * 400)
        batches = sampled_batches(samples, 128, 4, 8)
        owners = {int(d) for b in batches for d in b.documents[b.mask > 0]}
        assert len(owners) == 32
        assert sum(owner < 400 for owner in owners) == 16

    def test_is_the_same_every_time_and_no_conversation_is_in_it_twice(self) -> None:
        samples = conversations(list(range(2, 130)))
        one, two = (sampled_batches(samples, 128, 4, 5) for _ in range(2))
        assert all(map(same, one, two))
        rows = [t for batch in one for t in counted(batch)]
        assert len(rows) == len(set(rows))

    def test_is_everything_where_that_is_little(self) -> None:
        for content in (stream(100), conversations(LENGTHS)):
            every = list(evaluation_batches(content, 16, 4))
            found = sampled_batches(content, 16, 4, 500)
            assert len(found) == len(every)
            assert all(map(same, found, every))

    def test_of_one_length_costs_as_many_batches_as_asked_for(self) -> None:
        assert len(sampled_batches(conversations([30] * 100), 64, 4, 8)) == 8
        several = sampled_batches(conversations(list(range(2, 130))), 128, 4, 8)
        assert len(several) <= 8 + 2  # three padded lengths: two may be begun twice

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(DataError, match="at least 2 tokens, found 1"):
            sampled_batches(stream(1), 8, 2, 1)
        with pytest.raises(DataError, match="at least one sample"):
            sampled_batches([], 8, 2, 1)


def test_too_little_text_is_told_with_the_fix() -> None:
    expected = (
        "expected at least 129 tokens for one window, found 50: add text, or set "
        "--seq-len to at most 49"
    )
    for kind in (RandomWindows, PackedWindows):
        with pytest.raises(DataError, match=expected):
            kind(stream(50), 128, 4, 0)
        assert kind(stream(50), 49, 4, 0).batch(0).mask.all()
    with pytest.raises(DataError, match="expected at least 2 tokens, found 1"):
        evaluation_batches(stream(1), 8, 2)
    for make in (
        lambda: PaddedSamples([], 8, 2, 0),
        lambda: evaluation_batches([], 8, 2),
    ):
        with pytest.raises(DataError, match="expected at least one sample"):
            make()


@pytest.mark.parametrize(
    ("content", "packing", "expected"),
    [
        (stream(50), False, RandomWindows),
        (stream(50), True, PackedWindows),
        (conversations([9]), False, PaddedSamples),
        (conversations([9]), True, PaddedSamples),
    ],
)
def test_the_content_and_packing_choose_the_source(
    content: Any, packing: bool, expected: type
) -> None:
    source, notes = training_batches(
        content, seq_len=32, batch_size=2, seed=0, packing=packing
    )
    assert type(source) is expected
    assert source.batch(0).tokens.shape == (2, 33)
    asked_in_vain = packing and expected is PaddedSamples
    assert ("packing" in " ".join(notes)) == asked_in_vain


def test_several_padded_lengths_are_told_before_training() -> None:
    source, notes = training_batches(
        conversations(LENGTHS), seq_len=128, batch_size=2, seed=0, packing=False
    )
    assert notes == [
        "3 padded lengths: 32 (3 batches an epoch), 64 (2), 128 (2): the step is "
        "compiled once for each, and the longest needs the most memory"
    ]
    met = Counter(source.batch(i).mask.shape[1] for i in range(7))
    assert met == {32: 3, 64: 2, 128: 2}
    _, one_length = training_batches(
        conversations([20, 30]), seq_len=128, batch_size=2, seed=0, packing=False
    )
    assert one_length == []
