"""Training a base from nothing."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.data.batches import RandomWindows, evaluation_batches
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import TrainingError
from comigs_mlx.model.params import flatten
from comigs_mlx.tiny_base import architecture, pretraining

VOCABULARY = 24


def stream(repeats=60):
    """A text whose next token is always known."""
    tokens = np.tile(np.arange(VOCABULARY, dtype=np.int32), repeats)
    return TokenStream(tokens, np.zeros(len(tokens), np.int32))


def source(seed=0):
    return RandomWindows(stream(), 16, 4, seed)


def model(family="gpt2", seed=0):
    return families.build(family, None, seed=seed, vocab_size=VOCABULARY)


def weights(model):
    return {
        path: np.array(array) for path, array in flatten(model.parameters()).items()
    }


class TestSchedule:
    def test_warms_up_and_comes_down_to_a_tenth(self):
        rates = [pretraining.schedule(200, 1.0)(mx.array(i)).item() for i in range(201)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[10] == pytest.approx(1.0) == max(rates)
        assert rates[200] == pytest.approx(0.1, abs=1e-3)
        assert rates[:11] == sorted(rates[:11])
        assert rates[10:] == sorted(rates[10:], reverse=True)

    @pytest.mark.parametrize("steps", [1, 2, 19])
    def test_few_steps(self, steps):
        rates = [pretraining.schedule(steps, 1.0)(mx.array(i)) for i in range(steps)]
        assert all(0 < rate.item() <= 1 for rate in rates)


class TestPretrain:
    def test_learns_a_text_whose_next_token_is_known(self):
        trained = architecture.build(architecture.BaseSize(1, 32, 2, 16, VOCABULARY), 0)
        losses = list(pretraining.pretrain(trained, source(), 80, 1e-2))
        assert losses[0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
        assert losses[-1] < 0.1
        heldout = evaluation_batches(stream(3), 16, 2)
        assert pretraining.heldout_loss(trained, heldout) < 0.3

    def test_the_first_step_is_adamws(self):
        """Against MLX's own loss and gradient, in one piece, and Adam by hand."""
        mine, reference = model(), model()
        batch = source().batch(0)
        loss = pretraining.Pretraining(mine, 100, 1e-2).step(batch)
        tokens = mx.array(batch.tokens)

        def mean(tokens):
            logits = reference(tokens[:, :-1])
            return nn.losses.cross_entropy(logits, tokens[:, 1:], reduction="mean")

        expected, gradients = nn.value_and_grad(reference, mean)(tokens)
        norm = math.sqrt(
            sum(g.square().sum().item() for g in flatten(gradients).values())
        )
        rate, decay, clip = 1e-3, 0.1, min(1.0, 1.0 / norm)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        for path, weight in flatten(reference.parameters()).items():
            gradient = np.array(flatten(gradients)[path]) * clip
            step = gradient / (np.abs(gradient) + 1e-8)  # Adam's first, bias-corrected
            after = np.array(weight) * (1 - rate * decay) - rate * step
            sure = np.abs(gradient) > 1e-5
            np.testing.assert_allclose(
                weights(mine)[path][sure], after[sure], atol=1e-5
            )

    def test_equal_seeds_equal_bits(self):
        found = []
        for _ in range(2):
            trained = model()
            list(pretraining.pretrain(trained, source(3), 5))
            found.append(weights(trained))
        assert all((found[0][path] == found[1][path]).all() for path in found[0])

    def test_a_loss_that_is_no_number_stops_it(self):
        broken = model()
        broken.model.wte.weight = mx.full(broken.model.wte.weight.shape, math.nan)
        with pytest.raises(TrainingError, match="lower --learning-rate"):
            next(pretraining.pretrain(broken, source(), 5))


def test_heldout_loss_is_the_mean_over_all_targets():
    """Whatever the batches: 47 targets in windows of 16, the last one shorter."""
    held, some = (
        TokenStream(*(a[:48] for a in (stream().tokens, stream().documents))),
        model(),
    )
    losses = []
    for start in (0, 16, 32):
        inputs = mx.array(held.tokens[start : start + 17][None])
        logits = some(inputs[:, :-1])
        losses += nn.losses.cross_entropy(logits, inputs[:, 1:]).reshape(-1).tolist()
    assert len(losses) == 47
    for size in (1, 2, 4):
        batches = evaluation_batches(held, 16, size)
        found = pretraining.heldout_loss(some, batches)
        assert found == pytest.approx(sum(losses) / 47, rel=1e-5)


@pytest.mark.parametrize("seconds", [0.001, 5.0])
def test_steps_within_a_time_are_at_least_one_and_grow_with_it(seconds):
    steps = pretraining.steps_within(model(), source(), seconds)
    assert steps >= 1
    assert seconds < 1 or steps > 5
