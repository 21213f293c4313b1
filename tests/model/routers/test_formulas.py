"""Each router against its paper's formula, written once more in numpy."""

import math

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.routers import (
    dynmole,
    recurrent,
    relu,
    router_kind,
    static,
    stochastic,
    topk,
)
from comigs_mlx.model.routing import Ask, tsallis_entropy
from comigs_mlx.options import ExpertOptions
from tests.model.families import build
from tests.model.naive import randomise

DIMS, E = 6, 4
ALL = tuple(range(E))
KEY = mx.random.key(3)
X = mx.random.normal((2, 5, DIMS), key=mx.random.key(1))


def softmax(z):
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def weights(router, x=X, k=2, among=ALL, **asked):
    return np.array(router(x, Ask(k, among, **asked)).routing(E).weights)


class TestEntropy:
    def test_is_the_formula(self):
        p = softmax(np.array([[0.3, -1.0, 2.0], [1.0, 1.0, 1.0]]))
        top = (1 - 3 ** (1 - 1.1)) / 0.1
        expected = (1 - ((p + 1e-5) ** 1.1).sum(-1)) / 0.1 / top
        assert np.allclose(np.array(tsallis_entropy(mx.array(p))), expected, atol=1e-5)

    def test_tends_to_shannons(self):
        p = softmax(np.array([0.3, -1.0, 2.0]))
        shannon = -(p * np.log(p)).sum() / math.log(3)
        found = tsallis_entropy(mx.array(p), q=1.01).item()
        assert found == pytest.approx(shannon, abs=5e-3)

    @pytest.mark.parametrize("n", [2, 4, 9])
    def test_lies_between_certain_and_uniform(self, n):
        certain = mx.array([1.0, *[0.0] * (n - 1)])
        assert tsallis_entropy(certain).item() == pytest.approx(0, abs=1e-3)
        assert tsallis_entropy(mx.full((n,), 1 / n)).item() == pytest.approx(
            1, abs=1e-3
        )
        assert tsallis_entropy(mx.ones((3, 1))).tolist() == [0, 0, 0]


class TestTopk:
    def test_the_entropy_penalty_is_of_training_alone(self):
        router = topk.Router(DIMS, E, KEY, topk.Options(entropy=0.5))
        assert router(X, Ask(2, ALL)).penalty is None
        choice = router(X, Ask(2, ALL, training=True))
        expected = 0.5 * tsallis_entropy(choice.probabilities)
        assert mx.allclose(choice.penalty, expected)

    def test_soft_training_mixes_all_and_use_does_not(self):
        router = topk.Router(DIMS, E, KEY, topk.Options(soft_training=True))
        assert (weights(router, training=True) > 0).all()
        assert ((weights(router) > 0).sum(-1) == 2).all()


class TestStatic:
    def test_begins_with_equal_weights(self):
        router = static.Router(DIMS, E, KEY)
        assert np.allclose(weights(router, k=4), 1 / 4)
        assert np.allclose(weights(router, k=2).max(-1), 1 / 2)

    def test_reads_no_token(self):
        router = static.Router(DIMS, E, KEY)
        router.logits = mx.array([0.1, 0.5, -1.0, 2.0])
        expected = softmax(np.array([0.1, 0.5, -1.0, 2.0]))
        assert np.allclose(weights(router, k=4), expected, atol=1e-6)
        assert np.allclose(weights(router, 100 * X, k=4), expected, atol=1e-6)

    def test_of_equal_logits_is_a_selection_of_equal_weights(self):
        mixture = Mixture(build("llama"), ExpertOptions(router_type="static"))
        randomise(mixture.model)
        for site in mixture.sites:
            site.mlp.router.logits = mx.zeros(2)
        tokens = mx.array([[1, 2, 3, 4]])
        routed = mixture(tokens)[0]
        with mixture.selected((0.5, 0.5)):
            assert mx.allclose(routed, mixture(tokens)[0], atol=1e-5)


class TestStochastic:
    def noise(self, *values):
        """`[rows, tokens, E]` whose first value in each row is given."""
        noise = mx.random.uniform(shape=(len(values), 5, E), key=KEY)
        noise[:, 0, 0] = mx.array(values)
        return noise

    def test_without_a_share_it_is_topk_bit_for_bit(self):
        own = stochastic.Router(DIMS, E, KEY, stochastic.Options(share=0.0))
        usual = topk.Router(DIMS, E, KEY)
        for k in (1, 2, 4):
            asked = {"training": True, "noise": self.noise(0.0, 0.9)}
            assert np.array_equal(weights(own, k=k, **asked), weights(usual, k=k))

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_a_row_uses_one_expert_or_is_topks(self, k):
        own = stochastic.Router(DIMS, E, KEY, stochastic.Options(share=0.5))
        noise = self.noise(0.5 * 0.6, 0.7)  # expert floor(0.6 * 4) = 2; above the share
        found = weights(own, k=k, training=True, noise=noise)
        assert np.array_equal(found[0], np.eye(E)[[2] * 5])
        assert np.array_equal(found[1], weights(topk.Router(DIMS, E, KEY), k=k)[1])

    def test_the_draw_is_among_those_that_may_speak(self):
        own = stochastic.Router(DIMS, E, KEY, stochastic.Options(share=1.0))
        noise = self.noise(0.4, 0.6)
        found = weights(own, among=(1, 3), training=True, noise=noise)
        assert np.array_equal(found.argmax(-1), [[1] * 5, [3] * 5])

    def test_all_blocks_use_the_first_ones_draw(self):
        own = stochastic.Router(DIMS, E, KEY, stochastic.Options(share=1.0))
        asked = {"training": True, "noise": self.noise(0.1, 0.9)}
        carry = own(X, Ask(2, ALL, **asked)).carry
        other = stochastic.Router(DIMS, E, mx.random.key(9), stochastic.Options(1.0))
        asked["noise"] = self.noise(0.9, 0.1)
        found = weights(other, carry=carry, **asked)
        assert np.array_equal(found.argmax(-1), [[0] * 5, [3] * 5])

    def test_every_expert_is_drawn_about_as_often(self):
        own = stochastic.Router(DIMS, E, KEY, stochastic.Options(share=0.25))
        noise = mx.random.uniform(shape=(4000, 1, E), key=KEY)
        x = mx.zeros((4000, 1, DIMS))
        found = weights(own, x, k=4, training=True, noise=noise)[:, 0]
        alone = (found == 1).any(-1)
        assert alone.mean() == pytest.approx(0.25, abs=0.03)
        assert found[alone].mean(0) == pytest.approx([0.25] * E, abs=0.06)


class TestDynmole:
    def reference(self, p, k, top_p, keep, threshold):
        """`[E]` weights of one token, written out."""
        order = np.argsort(-p)[:k]
        entropy = (1 - ((p + 1e-5) ** 1.1).sum()) / (1 - len(p) ** (1 - 1.1))
        found, total = np.zeros(len(p)), 0.0
        for place, expert in enumerate(order):
            total += p[expert]
            if place < keep or total <= top_p or entropy > threshold:
                found[expert] = p[expert]
        return found / found.sum()

    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    @pytest.mark.parametrize("scale", [0.2, 2.0, 10.0])
    def test_keeps_what_the_rule_says(self, k, scale):
        router = dynmole.Router(DIMS, E, KEY)
        x = scale * X
        p = softmax(np.array(x @ router.weight.T).astype(np.float64))
        expected = [[self.reference(t, k, 0.75, 2, 0.9) for t in row] for row in p]
        assert np.allclose(weights(router, x, k=k), expected, atol=1e-5)

    def test_uniform_keeps_all_and_certain_keeps_the_first(self):
        router = dynmole.Router(DIMS, E, KEY, dynmole.Options(keep=1))
        router.weight = mx.zeros((E, DIMS))
        assert ((weights(router, k=3) > 0).sum(-1) == 3).all()
        router.weight[2] = 100.0
        found = weights(router, mx.ones((1, 1, DIMS)), k=3)
        assert np.array_equal(found, [[[0, 0, 1, 0]]])

    def test_two_experts_that_are_both_kept_are_topk(self):
        router = dynmole.Router(DIMS, 2, KEY, dynmole.Options(keep=2))
        usual = topk.Router(DIMS, 2, KEY)
        usual.weight = router.weight
        found, expected = (
            r(X, Ask(2, (0, 1))).routing(2).weights for r in (router, usual)
        )
        assert mx.allclose(found, expected, atol=1e-6)

    def test_one_of_two_is_kept_where_it_is_certain(self):
        router = dynmole.Router(1, 2, KEY)
        router.weight = mx.array([[1.0], [0.0]])
        odds = mx.array([math.log(p / (1 - p)) for p in (0.66, 0.70)])
        found = router(odds[:, None], Ask(2, (0, 1))).routing(2).chosen
        assert found.tolist() == [[1, 1], [1, 0]]

    def test_the_penalty_is_the_entropy(self):
        router = dynmole.Router(DIMS, E, KEY, dynmole.Options(entropy=0.2))
        choice = router(X, Ask(2, ALL, training=True))
        expected = 0.2 * tsallis_entropy(choice.probabilities)
        assert mx.allclose(choice.penalty, expected)


class TestRecurrent:
    def test_is_a_gru_through_the_blocks(self):
        options = recurrent.Options(size=3)
        first = recurrent.FirstRouter(DIMS, E, KEY, options)
        second = recurrent.Router(DIMS, E, mx.random.key(4), options)
        choice = first(X, Ask(4, ALL))
        found = second(X + 1, Ask(4, ALL, carry=choice.carry))
        gru = [np.array(a) for a in first.gru.arrays()]
        h = np.zeros((2, 5, 3))
        for router, x, given in ((first, X, choice), (second, X + 1, found)):
            h = self.step(np.array(x) @ np.array(router.inward).T, h, *gru)
            expected = softmax(h @ np.array(router.outward).T)
            assert np.allclose(np.array(given.weights), expected, atol=1e-5)

    def step(self, u, h, weight, hidden, bias, hidden_bias):
        (w_r, w_s, w_n), (u_r, u_s, u_n) = np.split(weight, 3), np.split(hidden, 3)
        b_r, b_s, b_n = np.split(bias, 3)
        r = sigmoid(u @ w_r.T + b_r + h @ u_r.T)
        s = sigmoid(u @ w_s.T + b_s + h @ u_s.T)
        n = np.tanh(u @ w_n.T + b_n + r * (h @ u_n.T + hidden_bias))
        return (1 - s) * n + s * h

    def test_one_gru_for_all_blocks(self):
        options = ExpertOptions(router_type="recurrent:size=5")
        mixture = Mixture(build("llama"), options)
        first, second = (site.mlp.router for site in mixture.sites)
        assert "gru" in first
        assert "gru" not in second


class TestOnce:
    def test_all_blocks_choose_as_the_first(self):
        mixture = Mixture(build("llama"), ExpertOptions(router_type="once"))
        randomise(mixture.model, std=1.0)
        _, routing = mixture(mx.array([[1, 2, 3, 4, 5]]))
        first, second = routing.weights
        assert mx.array_equal(first, second)
        assert mx.abs(first[0, 0] - first[0, 1]).max().item() > 1e-3


class TestRelu:
    def test_is_the_formula(self):
        router = relu.Router(DIMS, E, KEY)
        router.weight = mx.random.normal((E, DIMS), key=mx.random.key(5))
        found = weights(router, k=4)
        z = np.array(X) @ np.array(router.weight).T + 0.5
        a = np.maximum(z, 0)
        assert np.allclose(
            found, a / np.maximum(a.sum(-1, keepdims=True), 1), atol=1e-5
        )
        assert (found.sum(-1) < 1 - 1e-3).any() or (a.sum(-1) > 1).all()

    def test_where_no_expert_speaks_the_base_does_exactly(self):
        model, tokens = build("gpt2"), mx.array([[1, 2, 3, 4]])
        expected = model(tokens)
        mixture = Mixture(model, ExpertOptions(router_type="relu"))
        randomise(mixture.model)
        for site in mixture.sites:
            site.mlp.router.bias = mx.full((2,), -1e6)
            for name in site.attention_linears:
                site.attention[name].generalist.lora_b *= 0
        assert mx.allclose(mixture(tokens)[0], expected, atol=1e-5)

    def test_locality_is_the_cross_entropy_of_neighbours(self):
        z = np.random.default_rng(0).normal(0, 0.02, (2, 5, 3))
        s = sigmoid(100 * z)
        before, target = s[:, :-1], s[:, 1:]
        each = -(target * np.log(before) + (1 - target) * np.log(1 - before))
        found = np.array(relu.locality(mx.array(z)))
        assert np.allclose(found[:, 0], 0)
        assert np.allclose(found[:, 1:], each.mean(-1), rtol=1e-4)

    @pytest.mark.parametrize("tokens", [3, 64, 100])
    def test_chunk_use(self, tokens):
        a = np.random.default_rng(1).uniform(0, 1, (2, tokens, 3))
        p = a / a.sum(-1, keepdims=True)
        found = np.array(relu.chunk_use(mx.array(a)))
        for start in range(0, tokens, 64):
            chunk = slice(start, start + 64)
            unused = np.exp(np.log(1 - p[:, chunk] + 1e-5).sum(1))
            expected = (1 - unused).mean(-1)[:, None]
            assert np.allclose(found[:, chunk], expected, atol=1e-4)

    def test_chunk_use_of_nobody_and_of_one(self):
        assert relu.chunk_use(mx.zeros((1, 70, 4))).max().item() == 0
        one = mx.zeros((1, 64, 4))
        one[..., 2] = 1
        assert relu.chunk_use(one)[0, 0].item() == pytest.approx(1 / 4, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "unknown router 'magic': choose one of dynmole,"),
        ("once:x=1", "once:x=1: once has no options: write once alone"),
        ("topk:x=1", "topk:x=1: unknown option 'x'"),
        ("topk:entropy=much", "entropy"),
        ("stochastic:share=2", "share 2.0 must be from 0 to 1"),
        ("recurrent:size=0", "size 0 must be at least 1"),
        ("dynmole:top_p=1.5", "top_p 1.5 must be from 0 to 1"),
        ("topk:", "write NAME, or NAME:key=value"),
    ],
)
def test_options_that_cannot_work(text, message):
    with pytest.raises(ConfigError, match=message):
        router_kind(text)


def test_options_reach_the_router():
    assert router_kind("recurrent:size=5").options == recurrent.Options(size=5)
    assert router_kind("topk").options == topk.Options()
