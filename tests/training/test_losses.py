"""Losses against numpy in float64."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from comigs_mlx.model.routing import Routing
from comigs_mlx.platform import switch
from comigs_mlx.training import losses
from comigs_mlx.training.losses import (
    chosen_tokens,
    load_balancing,
    summed_loss,
    token_losses,
)


def identity(hidden):
    """A head for logits that are there already."""
    return hidden


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_token_losses_equal_numpy_and_are_float32(dtype):
    mx.random.seed(0)
    logits = (4 * mx.random.normal((2, 5, 11))).astype(dtype)
    targets = np.random.default_rng(0).integers(0, 11, (2, 5))
    z = np.array(logits.astype(mx.float32)).astype(np.float64)
    picked = np.take_along_axis(z, targets[..., None], -1)[..., 0]
    found = token_losses(identity, logits, mx.array(targets))
    assert found.dtype == mx.float32
    expected = np.log(np.exp(z).sum(-1)) - picked
    assert np.abs(np.array(found) - expected).max() <= 1e-5


def test_token_losses_survive_large_logits():
    logits = mx.array([[[1e4, 0.0, -1e4]]])
    assert token_losses(identity, logits, mx.array([[0]])).item() == 0.0
    assert token_losses(identity, logits, mx.array([[2]])).item() == 2e4


BATCH, TOKENS, DIMS, VOCABULARY = 3, 5, 8, 11


class Head:
    """A linear with a bias, and tanh(z / cap) * cap where there is a cap."""

    def __init__(self, cap=None, std=1.0, dtype=mx.float32):
        rng = np.random.default_rng(7)
        self.weight = mx.array(std * rng.normal(size=(DIMS, VOCABULARY))).astype(dtype)
        self.bias = mx.array(rng.normal(size=VOCABULARY)).astype(dtype)
        self.cap, self.shapes = cap, []

    def __call__(self, hidden):
        self.shapes.append(hidden.shape)
        z = hidden @ self.weight + self.bias
        return z if self.cap is None else self.cap * mx.tanh(z / self.cap)

    def exact(self, hidden):
        """Logits in float64, and what turns their gradient into that of `hidden`."""
        weight, bias = as_float64(self.weight), as_float64(self.bias)
        z = as_float64(hidden) @ weight + bias
        if self.cap is None:
            return z, lambda slope: slope @ weight.T
        bent = np.tanh(z / self.cap)
        return self.cap * bent, lambda slope: (slope * (1 - bent**2)) @ weight.T


def as_float64(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def targets_and_hidden(dtype=mx.float32, std=1.0):
    rng = np.random.default_rng(1)
    hidden = mx.array(std * rng.normal(size=(BATCH, TOKENS, DIMS))).astype(dtype)
    return mx.array(rng.integers(0, VOCABULARY, (BATCH, TOKENS))), hidden


MASKS = {
    "ones": np.ones((BATCH, TOKENS)),
    "zeros": np.arange(BATCH * TOKENS).reshape(BATCH, TOKENS) % 3 > 0,
    "fractions": np.linspace(0, 2, BATCH * TOKENS).reshape(BATCH, TOKENS),
    "nothing": np.zeros((BATCH, TOKENS)),
}


def mask_of(name="fractions"):
    return mx.array(MASKS[name].astype(np.float32))


def by_numpy(logits, targets, mask):
    """Losses, and the gradient of their masked sum: (softmax - one-hot) * mask."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    p = powers / powers.sum(-1, keepdims=True)
    hot = np.eye(VOCABULARY)[np.array(targets)]
    each = np.log(powers.sum(-1)) + logits.max(-1) - (logits * hot).sum(-1)
    return each, (p - hot) * np.array(mask)[..., None]


def value_and_gradient(head, hidden, targets, mask):
    return mx.value_and_grad(lambda h: summed_loss(head, h, targets, mask))(hidden)


def assert_close(found, expected, relative=1e-5):
    found = as_float64(found)
    assert found.shape == np.shape(expected)
    assert np.abs(found - expected).max() <= relative * max(np.abs(expected).max(), 1)


CHUNKS = {15: [15], 14: [8, 7], 4: [4, 4, 4, 3], 2: [2] * 7 + [1], 1: [1] * 15}
"""Most tokens in a chunk -> what 15 tokens are divided into."""


@pytest.fixture
def chunked(monkeypatch):
    """Bound the tokens of a chunk."""

    def bound(most):
        size = most * VOCABULARY
        monkeypatch.setattr(losses, "CHUNK", {True: size, False: size})
        monkeypatch.setattr(losses, "FEWEST", 1)

    return bound


@pytest.mark.parametrize("most", CHUNKS)
@pytest.mark.parametrize("cap", [None, 2.0], ids=["bias", "softcap"])
class TestChunks:
    @pytest.mark.parametrize("mask", MASKS)
    def test_value_and_gradient_equal_numpy(self, chunked, most, cap, mask):
        chunked(most)
        head, (targets, hidden) = Head(cap), targets_and_hidden()
        logits, back = head.exact(hidden)
        each, slope = by_numpy(logits, targets, mask_of(mask))
        loss, gradient = value_and_gradient(head, hidden, targets, mask_of(mask))
        assert loss.dtype == gradient.dtype == mx.float32
        assert loss.item() == pytest.approx((each * MASKS[mask]).sum(), rel=1e-5)
        assert_close(gradient, back(slope))

    def test_token_losses_equal_numpy(self, chunked, most, cap):
        chunked(most)
        head, (targets, hidden) = Head(cap), targets_and_hidden()
        expected, _ = by_numpy(head.exact(hidden)[0], targets, mask_of())
        assert_close(token_losses(head, hidden, targets), expected)

    def test_no_chunk_is_larger_than_asked_for(self, chunked, most, cap):
        chunked(most)
        targets, hidden = targets_and_hidden()
        first, second = Head(cap), Head(cap)
        token_losses(first, hidden, targets)
        summed_loss(second, hidden, targets, mask_of())
        probe = (1, 1, DIMS)  # for the size of the vocabulary, never computed
        expected = [(1, tokens, DIMS) for tokens in CHUNKS[most]]
        assert first.shapes == [probe, *expected]
        twice = [shape for shape in expected for _ in range(2)]  # and its gradient
        assert second.shapes == [probe, *twice]


def test_few_tokens_are_one_chunk_however_large_the_vocabulary(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", {True: 1, False: 1})
    head, (targets, hidden) = Head(), targets_and_hidden()
    assert BATCH * TOKENS < losses.FEWEST
    token_losses(head, hidden, targets)
    assert head.shapes == [(1, 1, DIMS), (1, BATCH * TOKENS, DIMS)]


class TestSummedLoss:
    @pytest.mark.parametrize("cap", [None, 2.0])
    def test_equals_autodiff_of_mean_cross_entropy(self, chunked, cap):
        chunked(4)
        head, (targets, hidden), mask = Head(cap), targets_and_hidden(), mask_of()

        def plain(hidden):
            each = nn.losses.cross_entropy(head(hidden), targets)
            return (each * mask).sum() / mask.sum()

        expected, slope = mx.value_and_grad(plain)(hidden)
        loss, gradient = mx.value_and_grad(
            lambda h: summed_loss(head, h, targets, mask) / mask.sum()
        )(hidden)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert_close(gradient, as_float64(slope))

    def test_gradient_goes_on_into_what_made_hidden(self, chunked):
        """A factor of the loss, and hidden = x @ matrix: the chain rule holds."""
        chunked(4)
        head, (targets, x), mask = Head(), targets_and_hidden(), mask_of()
        matrix = mx.random.normal((DIMS, DIMS), key=mx.random.key(4))
        loss = lambda m: 3 * summed_loss(head, x @ m, targets, mask)
        logits, back = head.exact(x @ matrix)
        _, slope = by_numpy(logits, targets, mask)
        expected = np.einsum("bti,btj->ij", as_float64(x), 3 * back(slope))
        assert_close(mx.grad(loss)(matrix), expected)

    @pytest.mark.parametrize("most", [15, 4])
    @pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
    def test_in_half_precision(self, chunked, most, dtype):
        """From the logits as they come, rounded; only the gradient is rounded again."""
        chunked(most)
        head, (targets, hidden) = Head(dtype=dtype), targets_and_hidden(dtype)
        each, slope = by_numpy(as_float64(head(hidden)), targets, mask_of())
        loss, gradient = value_and_gradient(head, hidden, targets, mask_of())
        assert (loss.dtype, gradient.dtype) == (mx.float32, dtype)
        assert loss.item() == pytest.approx((each * MASKS["fractions"]).sum(), rel=1e-5)
        expected = head.exact(hidden)[1](slope)
        assert_close(gradient, expected, 3 * mx.finfo(dtype).eps)

    @pytest.mark.parametrize("most", [15, 4])
    def test_survives_large_logits(self, chunked, most):
        """Of about 1e4: p is 0 or 1, and losses are differences of logits."""
        chunked(most)
        head, (targets, hidden) = Head(std=1e4), targets_and_hidden()
        logits, back = head.exact(hidden)
        assert np.abs(logits).max() > 1e4
        each, slope = by_numpy(logits, targets, mask_of())
        loss, gradient = value_and_gradient(head, hidden, targets, mask_of())
        assert loss.item() == pytest.approx((each * MASKS["fractions"]).sum(), rel=1e-5)
        assert_close(gradient, back(slope))

    @pytest.mark.parametrize("cap", [None, 2.0])
    def test_compiled_is_the_same(self, chunked, cap):
        chunked(4)
        head, (targets, hidden), mask = Head(cap), targets_and_hidden(), mask_of()
        run = lambda h, t, m: value_and_gradient(head, h, t, m)
        loss, gradient = run(hidden, targets, mask)
        found, compiled = mx.compile(run)(hidden, targets, mask)
        assert found.item() == pytest.approx(loss.item(), rel=1e-6)
        assert_close(compiled, as_float64(gradient), 1e-6)

    def test_compiled_reads_targets_and_mask_anew(self, chunked):
        chunked(4)
        head, (targets, hidden) = Head(), targets_and_hidden()
        run = mx.compile(lambda h, t, m: summed_loss(head, h, t, m))
        for step in range(3):
            t, mask = (targets + step) % VOCABULARY, mask_of() + step
            each, _ = by_numpy(head.exact(hidden)[0], t, mask)
            expected = (each * np.array(mask)).sum()
            assert run(hidden, t, mask).item() == pytest.approx(expected, rel=1e-5)

    def test_targets_mask_and_head_get_no_gradient(self):
        head, (targets, hidden), mask = Head(), targets_and_hidden(), mask_of()

        def loss(hidden, targets, mask, weight):
            return summed_loss(lambda h: h @ weight, hidden, targets, mask)

        arrays = [hidden, targets, mask, head.weight]
        _, gradients = mx.vjp(loss, arrays, [mx.array(1.0)])
        given = [bool(gradient.any()) for gradient in gradients]
        assert given == [True, False, False, False]
        assert [g.shape for g in gradients] == [a.shape for a in arrays]

    def test_where_nothing_counts_there_is_no_gradient(self):
        targets, hidden = targets_and_hidden()
        loss, gradient = value_and_gradient(Head(), hidden, targets, mask_of("nothing"))
        assert loss.item() == 0
        assert not gradient.any()

    def test_nan_shows(self):
        targets, hidden = targets_and_hidden()
        hidden[1, 2, 3] = mx.nan
        loss, gradient = value_and_gradient(Head(), hidden, targets, mask_of("ones"))
        assert mx.isnan(loss)
        assert mx.isnan(gradient[1, 2]).any()
        assert not mx.isnan(gradient[0]).any()


@pytest.mark.parametrize("cap", [None, 2.0])
def test_token_losses_are_summed_losses_of_one_token(chunked, cap):
    chunked(4)
    head, (targets, hidden) = Head(cap), targets_and_hidden()
    each = np.array(token_losses(head, hidden, targets)).reshape(-1)
    for i, loss in enumerate(each):
        alone = mx.array(np.eye(each.size, dtype=np.float32)[i].reshape(BATCH, TOKENS))
        found = summed_loss(head, hidden, targets, alone)
        assert found.item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("cheap", [True, False])
def test_either_exponential_gives_the_same(monkeypatch, cheap):
    """The cheap one, as on an x86 CPU, and MLX's."""
    monkeypatch.setattr(switch, "x86_cpu", lambda: cheap)
    head, (targets, hidden) = Head(), targets_and_hidden()
    logits, back = head.exact(hidden)
    each, slope = by_numpy(logits, targets, mask_of())
    assert_close(token_losses(head, hidden, targets), each)
    _, gradient = value_and_gradient(head, hidden, targets, mask_of())
    assert_close(gradient, back(slope))


def random_routing(layers, batch, tokens, experts, k, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(layers, batch, tokens, experts)).astype(np.float32)
    probabilities = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    chosen = (np.argsort(np.argsort(-z, -1), -1) < k).astype(np.float32)
    return Routing(*(mx.array(a) for a in (probabilities, chosen, probabilities)))


def balancing(routing, mask, generalists, importance):
    """The load-balancing loss of a whole batch."""
    whole = chosen_tokens(routing, mask), mask.sum()
    return load_balancing(routing, mask, *whole, generalists, importance)


@pytest.mark.parametrize(("generalists", "importance"), [(1, 1.0), (2, 0.25), (0, 5.0)])
def test_load_balancing_equals_the_formula(generalists, importance):
    routing = random_routing(3, 2, 7, 4, k=2)
    mask = np.ones((2, 7), np.float32)
    mask[0, 4:] = 0
    chosen, probabilities = np.array(routing.chosen), np.array(routing.probabilities)
    blocks = []
    for layer in range(3):
        total = 0.0
        for e in range(4):
            c = importance if e < generalists else 1.0
            f = chosen[layer, ..., e][mask > 0].mean()
            p = probabilities[layer, ..., e][mask > 0].mean()
            total += c * f * p
        blocks.append(4 * total)
    found = balancing(routing, mx.array(mask), generalists, importance)
    assert found.item() == pytest.approx(np.mean(blocks), rel=1e-5)


def test_load_balancing_is_k_for_even_routing_and_e_where_one_expert_takes_all():
    even = mx.array(np.eye(4, dtype=np.float32)[None, None])  # each expert once
    quarter = mx.full((1, 1, 4, 4), 0.25)
    ones = mx.ones((1, 4))
    assert balancing(Routing(even, even, quarter), ones, 1, 1.0).item() == 1.0
    first = mx.array(np.eye(4, dtype=np.float32)[[0, 0, 0, 0]][None, None])
    assert balancing(Routing(first, first, first), ones, 1, 1.0).item() == 4.0


def test_load_balancing_of_parts_adds_up_to_the_whole():
    routing, mask = random_routing(3, 4, 5, 4, k=2), mx.ones((4, 5))
    mask[0, 2:] = 0
    whole = chosen_tokens(routing, mask), mask.sum()
    parts = [
        load_balancing(
            Routing(*(a[:, rows] for a in routing.arrays())), mask[rows], *whole, 1, 2.0
        ).item()
        for rows in (slice(0, 1), slice(1, 4))
    ]
    expected = balancing(routing, mask, 1, 2.0).item()
    assert sum(parts) == pytest.approx(expected, rel=1e-6)


def test_load_balancing_differentiates_probabilities_only():
    routing, mask = random_routing(1, 1, 6, 3, k=1), mx.ones((1, 6))

    def loss(chosen, probabilities):
        return balancing(Routing(chosen, chosen, probabilities), mask, 1, 2.0)

    by_chosen, by_probability = mx.grad(loss, argnums=(0, 1))(
        routing.chosen, routing.probabilities
    )
    assert np.abs(np.array(by_chosen)).max() == 0.0
    f = np.array(routing.chosen)[0, 0].mean(0)
    expected = 3 * np.array([2.0, 1.0, 1.0]) * f / 6  # d/dp of E c_e f_e mean(p)
    assert np.allclose(np.array(by_probability)[0, 0], expected, atol=1e-6)
