"""Held-out loss: exact means, whatever the batches, and an interval around them."""

import math

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.data.batches import Batch, evaluation_batches
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import DataError, ModelError
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training.evaluation import (
    Difference,
    Evaluator,
    NotFinite,
    Score,
    difference,
    resampling_units,
)
from tests.training.setting import batch_of, mixture_of

SEQ_LEN = 8
OPTIONS = ExpertOptions(rank=2, specialists=2, top_k=2)


@pytest.fixture(scope="module")
def mixture():
    return mixture_of(OPTIONS, std=0.1)


def stream_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 60, sum(lengths)).astype(np.int32)
    documents = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return TokenStream(tokens, documents)


STREAM = stream_of([5, 13, 2, 9, 1, 11])


def by_hand(mixture, stream):
    """Document -> losses of its targets, window by window; and all weights."""
    losses, weights = {}, []
    for start in range(0, len(stream.tokens) - 1, SEQ_LEN):
        window = stream.tokens[start : start + SEQ_LEN + 1]
        logits, routing = mixture(mx.array(window[None, :-1]))
        weights.append(np.array(routing.weights)[:, 0])
        for i, target in enumerate(window[1:]):
            z = np.array(logits[0, i]).astype(np.float64)
            loss = math.log(np.exp(z).sum()) - z[target]
            losses.setdefault(int(stream.documents[start + i + 1]), []).append(loss)
    return losses, np.concatenate(weights, axis=1)  # [layers, targets, E]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_score_is_the_mean_over_tokens_whatever_the_batches(mixture, batch_size):
    losses, weights = by_hand(mixture, STREAM)
    batches = evaluation_batches(STREAM, SEQ_LEN, batch_size)
    score = Evaluator(mixture).score(batches)
    flat = [loss for document in losses.values() for loss in document]
    assert score.token_count == len(flat) == len(STREAM.tokens) - 1
    assert score.loss == pytest.approx(np.mean(flat), rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(np.mean(flat)), rel=1e-5)
    assert score.tokens == {d: len(own) for d, own in losses.items()}
    for document, own in losses.items():
        assert score.losses[document] == pytest.approx(sum(own), rel=1e-5)
    expected = weights.mean((0, 1)).tolist()
    assert score.share == pytest.approx(expected, rel=1e-5)
    assert sum(score.share) == pytest.approx(1.0)


def test_every_selection_is_measured_as_it_computes(mixture):
    evaluator = Evaluator(mixture)
    found = {}
    for selection in ("base", "generalist", "specialist", "auto", (0.2, 0.3, 0.5)):
        with mixture.selected(selection):
            losses, _ = by_hand(mixture, STREAM)
        expected = np.mean([loss for own in losses.values() for loss in own])
        for _ in range(2):  # also when its compiled form is used again
            score = evaluator.score(evaluation_batches(STREAM, SEQ_LEN, 2), selection)
            assert score.loss == pytest.approx(expected, rel=1e-6)
        found[selection] = score
    assert mixture.selection == "auto"
    assert len({score.loss for score in found.values()}) == 5
    assert found["base"].share == [0, 0, 0]
    assert found["generalist"].share == pytest.approx([1, 0, 0])
    assert found["specialist"].share[0] == 0
    assert found[(0.2, 0.3, 0.5)].share == pytest.approx([0.2, 0.3, 0.5])


def test_evaluator_follows_the_values(mixture):
    evaluator = Evaluator(mixture)
    before = evaluator.score([batch_of(0)]).loss
    other = mixture_of(OPTIONS, std=0.2)
    path = mixture.sites[0].mlp.router
    saved, path.weight = path.weight, other.sites[0].mlp.router.weight
    after = evaluator.score([batch_of(0)]).loss
    path.weight = saved
    assert after != before
    assert evaluator.score([batch_of(0)]).loss == before


def score_of(losses, tokens):
    pairs = enumerate(zip(losses, tokens, strict=True))
    score = Score()
    for document, (loss, count) in pairs:
        score.losses[document], score.tokens[document] = loss, count
    return score


class TestInterval:
    def test_contains_the_estimate_and_is_the_same_every_time(self):
        rng = np.random.default_rng(3)
        tokens = rng.integers(1, 50, 200)
        score = score_of(tokens * rng.normal(2.0, 0.3, 200), tokens.tolist())
        low, high = score.interval()
        assert low < score.perplexity < high
        assert score.interval() == (low, high)
        assert score.interval(seed=1) != (low, high)

    def test_has_the_width_that_the_central_limit_gives(self):
        rng = np.random.default_rng(4)
        losses = rng.normal(2.0, 0.5, 2000)
        low, high = score_of(losses, [1] * 2000).interval()
        half = 1.96 * losses.std() / math.sqrt(2000)
        assert math.log(low) == pytest.approx(losses.mean() - half, abs=0.15 * half)
        assert math.log(high) == pytest.approx(losses.mean() + half, abs=0.15 * half)

    def test_of_one_document_is_a_point(self):
        score = score_of([6.0], [4])
        assert score.interval() == pytest.approx((math.exp(1.5), math.exp(1.5)))

    def test_resamples_documents_not_tokens(self):
        # Equal documents leave nothing to resample, however their tokens differ.
        low, high = score_of([8.0] * 50, [4] * 50).interval()
        assert low == pytest.approx(high)


def test_an_overflowing_perplexity_is_infinite():
    assert score_of([800.0], [1]).perplexity == math.inf


def test_documents_are_summed_in_float64():
    """In float32, 1e8 + 1 is 1e8."""
    losses = np.ones((1, 1001), np.float32)
    losses[0, 0] = 1e8
    batch = Batch(
        np.zeros((1, 1002), np.int32),
        np.ones((1, 1001), np.float32),
        np.zeros((1, 1001), np.int32),
    )
    score = Score()
    for _ in range(2):
        score.add(losses, np.ones((1, 1001, 1), np.float32), batch)
    assert score.losses[0] == 2 * (1e8 + 1000)


def test_the_interval_is_that_of_the_mean_over_tokens():
    """Short documents are hard here: the mean of documents' means is 3, not 1.04."""
    score = score_of([5.0, 100.0] * 500, [1, 100] * 500)
    low, high = (math.log(end) for end in score.interval())
    assert low < 105 / 101 < high < 1.2


@pytest.mark.parametrize("value", [mx.nan, mx.inf])
def test_values_that_are_not_numbers_are_refused(value):
    mixture = mixture_of(OPTIONS, std=0.1)
    linear = mixture.sites[0].mlp.up_proj
    linear.specialist.lora_b = mx.full(linear.specialist.lora_b.shape, value)
    evaluator = Evaluator(mixture)
    assert math.isfinite(evaluator.score([batch_of(0)], "base").loss)
    with pytest.raises(NotFinite, match="the loss of specialist is nan: values"):
        evaluator.score([batch_of(0)], "specialist")
    with pytest.raises(NotFinite, match="the loss of fixed 0,0.5,1 is"):
        evaluator.score([batch_of(0)], (0.0, 0.5, 1.0))


def test_nothing_to_predict_is_refused(mixture):
    with pytest.raises(DataError, match="nothing to measure"):
        Evaluator(mixture).score([batch_of(0, counted=0)])
    with pytest.raises(DataError, match="nothing to measure"):
        Evaluator(mixture).score([])


def test_tokens_that_the_base_does_not_know_are_refused(mixture):
    batch = batch_of(0)
    tokens = batch.tokens.copy()
    tokens[-1, -1] = mixture.tables.vocabulary
    with pytest.raises(ModelError, match="token id 64"):
        Evaluator(mixture).score([batch._replace(tokens=tokens)])


class TestDifference:
    def test_is_paired(self):
        """Documents that are hard for both leave no doubt: all differ by 0.1."""
        hard = np.array([1.0, 50.0, 3.0, 200.0])
        found = difference(score_of(hard + 0.1, [1] * 4), score_of(hard, [1] * 4))
        assert found.mean == pytest.approx(0.1)
        assert found.interval == pytest.approx((0.1, 0.1))
        assert (found.worse, found.better) == (True, False)

    def test_is_of_the_mean_over_tokens(self):
        found = difference(score_of([3.0, 1.0], [1, 9]), score_of([1.0, 2.0], [1, 9]))
        assert found.mean == pytest.approx(0.1)
        assert found.interval == pytest.approx((-1 / 9, 2.0))
        assert (found.worse, found.better) == (False, False)

    def test_turned_around_it_is_the_negative(self):
        rng = np.random.default_rng(0)
        one, other = (score_of(rng.uniform(1, 9, 30), [3] * 30) for _ in range(2))
        found, turned = difference(one, other), difference(other, one)
        assert turned.mean == pytest.approx(-found.mean)
        low, high = turned.interval
        assert (-high, -low) == pytest.approx(found.interval)

    def test_of_one_document_has_no_interval(self):
        found = difference(score_of([1.0], [2]), score_of([2.0], [2]))
        assert found == Difference(-0.5, None)
        assert (found.worse, found.better) == (False, True)

    def test_of_other_texts_is_refused(self):
        with pytest.raises(ValueError, match="different texts"):
            difference(score_of([1.0], [2]), score_of([1.0], [3]))


class TestResamplingUnits:
    def test_documents_stay_documents(self):
        batches = [batch_of(0), batch_of(1)]
        batches = [
            b._replace(documents=b.documents * 0 + i) for i, b in enumerate(batches)
        ]
        found, over = resampling_units(batches)
        assert over == "documents"
        assert all(one is other for one, other in zip(found, batches, strict=True))

    def test_windows_of_one_document_are_numbered(self):
        batches = [
            b._replace(documents=b.documents * 0 + 7) for b in map(batch_of, (0, 1))
        ]
        found, over = resampling_units(batches)
        assert over == "windows"
        rows = [row for b in found for row in zip(b.documents, b.mask > 0, strict=True)]
        for number, (documents, counts) in enumerate(rows):
            assert set(documents[counts]) <= {number}
        assert all(
            np.array_equal(b.tokens, f.tokens)
            for b, f in zip(batches, found, strict=True)
        )


class TestTilts:
    TILTS = (mx.zeros((2, 3)), mx.array([[0.0, 1.0, 0.5]] * 2))

    def test_a_tilt_of_0_is_none_bit_for_bit(self, mixture):
        batch, evaluator = batch_of(0), Evaluator(mixture)
        losses, weights = evaluator.batch_losses(batch, "auto")
        same, also = evaluator.batch_losses(batch, "auto", self.TILTS[0])
        assert np.array_equal(same, losses)
        assert np.array_equal(also, weights)

    def test_is_what_the_mixture_computes_with_it(self, mixture):
        tilt, batch = self.TILTS[1], batch_of(0)
        found, weights = Evaluator(mixture).batch_losses(batch, "auto", tilt)
        with mixture.tilted(tilt):
            _, routing = mixture(mx.array(batch.tokens[:, :-1]))
        assert weights == pytest.approx(np.array(routing.weights.mean(0)), abs=1e-5)
        without, _ = Evaluator(mixture).batch_losses(batch, "auto")
        assert np.abs(found - without).max() > 1e-4

    def test_another_value_traces_nothing_again(self, mixture, monkeypatch):
        evaluator, batch, traced = Evaluator(mixture), batch_of(0), []
        rows = evaluator._rows
        monkeypatch.setattr(
            evaluator,
            "_rows",
            lambda tokens, tilt: traced.append(1) or rows(tokens, tilt),
        )
        first = evaluator.score([batch], tilt=self.TILTS[0]).loss
        once = len(traced)
        others = [evaluator.score([batch], tilt=self.TILTS[1] * x) for x in (1, 2, 3)]
        assert len(traced) == once > 0
        assert len({first, *(score.loss for score in others)}) == 4

    def test_each_row_may_have_its_own(self, mixture):
        """Also where the rows are divided among several streams."""
        batch, evaluator = batch_of(0, rows=3), Evaluator(mixture)
        tilts = [self.TILTS[1] * size for size in (-1.0, 0.0, 2.0)]
        own = mx.stack(tilts)[:, None]  # [3, 1, layers, E]
        found, _ = evaluator.batch_losses(batch, "auto", own)
        for row, tilt in enumerate(tilts):
            expected, _ = evaluator.batch_losses(batch, "auto", tilt)
            assert found[row] == pytest.approx(expected[row], abs=1e-5)
