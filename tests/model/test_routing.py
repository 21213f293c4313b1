"""The paper's router by its formula, and what a forward pass tells about routing."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

import tests.model.families as families
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.routers.topk import INIT_STD, Router
from comigs_mlx.model.routing import Ask, Choice
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = mx.random.randint(0, 60, (2, 24), key=mx.random.key(0))
SHAPES = {
    "1G1S": ExpertOptions(),
    "2G2S-top2": ExpertOptions(generalists=2, specialists=2, top_k=2),
    "1G3S-top1": ExpertOptions(specialists=3, top_k=1),
}


def mixture_of(family="llama", shape="1G1S", std=0.2):
    mixture = Mixture(families.build(family), SHAPES[shape])
    randomise(mixture.model, std=std)
    return mixture


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


class TestTopK:
    @settings(max_examples=40, deadline=None)
    @given(
        z=st.lists(st.integers(-30, 30), min_size=2, max_size=6, unique=True),
        data=st.data(),
    )
    def test_weights_follow_the_formula(self, z, data):
        """One token whose logits are exactly z: R = diag(z), x = (1, ..., 1)."""
        k = data.draw(st.integers(1, len(z)))
        among = tuple(
            sorted(
                data.draw(
                    st.sets(st.integers(0, len(z) - 1), min_size=k, max_size=len(z))
                )
            )
        )
        router = Router(len(z), len(z), mx.random.key(0))
        router.weight = mx.diag(mx.array(z, mx.float32) / 10)
        found = router(mx.ones((1, len(z))), Ask(k, among)).routing(len(z))
        scores = np.array(z)[list(among)] / 10
        probabilities = np.zeros(len(z))
        probabilities[list(among)] = softmax(scores)
        best = [among[i] for i in np.argsort(-scores)[:k]]
        expected = np.zeros(len(z))
        expected[best] = (
            softmax(np.array(z)[best] / 10) if k > 1 else probabilities[best]
        )
        assert np.allclose(found.weights[0], expected, atol=1e-6)
        assert np.allclose(found.probabilities[0], probabilities, atol=1e-6)
        assert np.flatnonzero(np.array(found.chosen[0])).tolist() == sorted(best)

    def test_k_1_is_the_probability_at_its_argmax(self):
        router = Router(8, 4, mx.random.key(1))
        x = 50 * mx.random.normal((3, 8), key=mx.random.key(2))
        choice = router(x, Ask(1, (0, 1, 2, 3)))
        probabilities = mx.softmax(x @ router.weight.T, axis=-1)
        assert mx.allclose(choice.weights[:, 0], probabilities.max(-1), atol=1e-6)
        assert mx.array_equal(choice.slots[:, 0], probabilities.argmax(-1))
        assert not choice.normalised

    def test_a_tie_still_chooses_k(self):
        router = Router(4, 5, mx.random.key(0))
        routing = router(mx.zeros((3, 4)), Ask(2, (0, 1, 2, 3, 4))).routing(5)
        assert mx.array_equal(routing.chosen.sum(-1), mx.full((3,), 2.0))
        assert mx.allclose(routing.weights.max(-1), mx.array(0.5))

    def test_starts_as_narrow_normal_noise(self):
        weight = np.array(Router(256, 256, mx.random.key(0)).weight)
        assert INIT_STD == 0.02
        assert abs(weight.std() / 0.02 - 1) < 0.02  # 65536 draws: sd 0.0028
        assert abs(weight.mean()) < 5 * 0.02 / 256


class TestChoice:
    def test_routing_spreads_slots_over_all_experts(self):
        choice = Choice(
            weights=mx.array([[0.75, 0.25]]),
            slots=mx.array([[2, 0]]),
            among=(1, 2, 4),
            probabilities=mx.array([[0.2, 0.3, 0.5]]),
            normalised=True,
        )
        routing = choice.routing(6)
        assert np.allclose(routing.weights, [[0, 0.25, 0, 0, 0.75, 0]])
        assert np.allclose(routing.chosen, [[0, 1, 0, 0, 1, 0]])
        assert np.allclose(routing.probabilities, [[0, 0.2, 0.3, 0, 0.5, 0]])

    def test_without_slots_every_expert_of_among_is_used(self):
        weights = mx.array([[0.1, 0.9]])
        routing = Choice(weights, None, (0, 2), weights, True).routing(3)
        assert np.allclose(routing.weights, [[0.1, 0, 0.9]])
        assert np.allclose(routing.chosen, [[1, 0, 1]])


class TestForwardPass:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_arrays_have_one_row_a_block_and_token(self, shape):
        mixture = mixture_of(shape=shape)
        options = mixture.options
        _, routing = mixture(TOKENS)
        for field in routing.arrays():
            assert field.shape == (2, 2, 24, options.experts)
            assert field.dtype == mx.float32
        assert ((routing.weights > 0).sum(-1) == options.top_k).all()
        sums = routing.weights.sum(-1)
        if options.top_k > 1:
            assert mx.allclose(sums, mx.array(1.0), atol=1e-6)
        else:
            largest = routing.probabilities.max(-1)
            assert mx.allclose(sums, largest, atol=1e-6)
            assert sums.max().item() < 1

    def test_rows_are_the_blocks_in_order(self):
        """With R = 0 in the first block only, only its row is even."""
        mixture = mixture_of()
        router = mixture.sites[0].mlp.router
        router.weight = mx.zeros_like(router.weight)
        _, routing = mixture(TOKENS)
        assert mx.array_equal(routing.weights[0], mx.full((2, 24, 2), 0.5))
        assert (routing.weights[1] - 0.5).abs().min().item() > 0

    def test_nothing_is_kept_by_a_plain_call(self):
        mixture = mixture_of()
        before = {id(m): {*vars(m)} for _, m in mixture.model.named_modules()}
        mx.eval(mixture.model(TOKENS))
        assert mixture._collected is None
        assert all(site.mlp._routing.choice is None for site in mixture.sites)
        after = {id(m): {*vars(m)} for _, m in mixture.model.named_modules()}
        assert after == before

    def test_collecting_is_nested_and_ends_with_its_block(self):
        mixture = mixture_of()
        with mixture.collecting() as outer:
            mixture.model(TOKENS)
            with mixture.collecting() as inner:
                mixture.model(TOKENS)
        mixture.model(TOKENS)
        assert (len(outer), len(inner)) == (2, 2)

    def test_an_error_in_a_block_leaves_no_choice_behind(self, monkeypatch):
        mixture = mixture_of()
        expected, _ = mixture(TOKENS)
        linear = mixture.sites[1].mlp.up_proj
        with monkeypatch.context() as patch:
            patch.setattr(type(linear), "__call__", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                mixture(TOKENS)
        assert all(site.mlp._routing.choice is None for site in mixture.sites)
        assert mixture._collected is None
        assert mx.array_equal(mixture(TOKENS)[0], expected)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_compiled_equals_plain(self, shape):
        mixture = mixture_of(shape=shape)
        logits, routing = mixture(TOKENS)

        @mx.compile
        def compiled(tokens):
            logits, routing = mixture(tokens)
            return logits, routing.weights

        for _ in range(2):  # traced, then replayed
            found, weights = compiled(TOKENS)
            assert mx.allclose(found, logits, atol=2e-5)
            assert mx.allclose(weights, routing.weights, atol=1e-5)

    def test_tokens_do_not_look_ahead(self):
        mixture = mixture_of()
        changed = mx.where(mx.arange(24) < 12, TOKENS, 60 - TOKENS)
        (a, first), (b, second) = mixture(TOKENS), mixture(changed)
        same = first.weights[:, :, :12] - second.weights[:, :, :12]
        assert same.abs().max().item() < 1e-6
        assert (first.weights[:, :, 12:] - second.weights[:, :, 12:]).abs().max() > 1e-3
        assert mx.allclose(a[:, :12], b[:, :12], atol=1e-5)


FAMILIES = {"llama": KVCache, "gpt2": KVCache, "gemma3_text": RotatingKVCache}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 5, 16, 20])
def test_reading_in_chunks_with_a_cache_changes_nothing(family, shape, chunk):
    """20 tokens in chunks, then one by one, as mlx-lm reads a prompt and decodes."""
    mixture = mixture_of(family, shape)
    logits, routing = mixture(TOKENS)
    cache = make_prompt_cache(mixture.model)
    assert FAMILIES[family] in {type(entry) for entry in cache}
    edges = [*range(0, 20, chunk), *range(20, 25)]
    parts = [
        mixture(TOKENS[:, start:end], cache=cache)
        for start, end in itertools.pairwise(edges)
    ]
    found = mx.concatenate([part for part, _ in parts], axis=1)
    weights = mx.concatenate([part.weights for _, part in parts], axis=2)
    assert mx.abs(found - logits).max().item() < 2e-5
    assert mx.abs(weights - routing.weights).max().item() < 1e-5
