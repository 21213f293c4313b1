"""Where cheap functions are put, for which arrays, and that they are taken away."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import activations as mlx_activations
from mlx_lm.models import base as mlx_base

import tests.model.families as families
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from comigs_mlx.platform import switch
from comigs_mlx.platform.x86 import substitutes as module
from comigs_mlx.platform.x86.substitutes import instead, substitutes
from tests.model.naive import randomise

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
ALWAYS = {("mlx.nn", "silu"), ("mlx.nn", "gelu_approx")}
SDPA, SWIGLU = "scaled_dot_product_attention", "swiglu"
NAMES = {
    "llama": {("llama", SDPA), ("llama", SWIGLU)},
    "qwen2": {("qwen2", SDPA), ("qwen2", SWIGLU)},
    "smollm3": {("llama", SDPA), ("llama", SWIGLU)},
    "gpt2": {("gpt2", SDPA)},
    "gemma": {("gemma", SDPA)},
    "gemma2": set(),
    "phi": {("phi", SDPA)},
}


@pytest.fixture
def on_x86(monkeypatch):
    """As on an x86 CPU, wherever the tests run."""
    monkeypatch.setattr(switch, "x86_cpu", lambda: True)


def names(found):
    return {(each.module.__name__, each.name) for each in found}


def current(found):
    return [getattr(each.module, each.name) for each in found]


class TestNames:
    @pytest.mark.usefixtures("on_x86")
    @pytest.mark.parametrize("family", NAMES)
    def test_are_those_of_the_familys_own_code(self, family):
        found = substitutes(families.build(family))
        own = {(f"mlx_lm.models.{file}", name) for file, name in NAMES[family]}
        assert names(found) == ALWAYS | own
        assert len(found) == len(names(found))

    @pytest.mark.usefixtures("on_x86")
    def test_are_found_with_experts_attached_too(self):
        model = families.build("llama")
        before = names(substitutes(model))
        Mixture(model, ExpertOptions())
        assert names(substitutes(model)) == before

    @pytest.mark.usefixtures("on_x86")
    def test_stand_for_what_is_there_and_change_nothing_yet(self):
        found = substitutes(families.build("llama"))
        assert current(found) == [each.slow for each in found]
        slow = {mlx_activations.swiglu, nn.silu, nn.gelu_approx}
        assert {each.slow for each in found} == slow | {getattr(mlx_base, SDPA)}

    def test_are_none_where_they_are_not_wanted(self, monkeypatch):
        monkeypatch.setattr(switch, "x86_cpu", lambda: False)
        assert substitutes(families.build("llama")) == []


@pytest.fixture
def llama(on_x86):
    return substitutes(families.build("llama"))


class TestInstead:
    def test_puts_them_there_and_takes_them_away(self, llama):
        before = current(llama)
        with instead(llama):
            assert current(llama) == [each.cheap for each in llama]
            assert not set(current(llama)) & set(before)
        assert current(llama) == before

    def test_also_after_an_exception(self, llama):
        before = current(llama)
        with pytest.raises(ZeroDivisionError), instead(llama):
            raise ZeroDivisionError
        assert current(llama) == before

    def test_within_itself(self, llama):
        """As where a recomputed block runs inside the body."""
        before = current(llama)
        with instead(llama):
            with instead(llama):
                assert current(llama) == [each.cheap for each in llama]
        assert current(llama) == before

    def test_nothing_is_nothing(self):
        before = nn.silu
        with instead([]):
            assert nn.silu is before


@pytest.fixture
def called(monkeypatch):
    """Names of the cheap functions that ran."""
    names = []

    def spy(owner, name):
        run = getattr(owner, name)

        def call(*args, **kwargs):
            names.append(name)
            return run(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("swiglu", "silu", "gelu_approx"):
        spy(module.activations, name)
    spy(module, "attention")
    return names


def cheap(name, family="llama"):
    """The function put in the place of `name`."""
    found = {each.name: each.cheap for each in substitutes(families.build(family))}
    return found[name]


@pytest.mark.usefixtures("on_x86")
class TestChoice:
    """For float32, and where `attention` fits; else MLX's own, to the bit."""

    X = mx.random.normal((2, 3, 4, 8), key=mx.random.key(0))

    @pytest.mark.parametrize("name", ["silu", "gelu_approx"])
    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
    def test_of_one_argument(self, called, name, dtype):
        x = self.X.astype(dtype)
        found = cheap(name)(x)
        assert found.dtype == dtype
        assert called == ([name] if dtype == mx.float32 else [])
        if not called:
            assert mx.array_equal(found, getattr(nn, name)(x))

    @pytest.mark.parametrize("half", [0, 1])
    def test_of_swiglu_asks_for_both(self, called, half):
        types = [mx.float32, mx.float32]
        types[half] = mx.bfloat16
        gate, x = (self.X.astype(dtype) for dtype in types)
        found = cheap("swiglu")(gate, x)
        assert called == []
        assert mx.array_equal(found, mlx_activations.swiglu(gate, x))
        cheap("swiglu")(self.X, self.X)
        assert called == ["swiglu"]

    def attended(self, q, mask="causal", **more):
        """As mlx-lm's models call it."""
        given = {"cache": None, "scale": 0.3, "mask": mask, **more}
        return cheap(SDPA)(q, q, q, **given), getattr(mlx_base, SDPA)(q, q, q, **given)

    def test_of_attention(self, called):
        found, expected = self.attended(self.X)
        assert called == ["attention"]
        assert mx.abs(found - expected).max() < 1e-5

    @pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
    def test_of_attention_in_half_precision(self, called, dtype):
        found, expected = self.attended(self.X.astype(dtype))
        assert called == []
        assert found.dtype == dtype
        assert mx.array_equal(found, expected)

    def test_of_attention_with_a_bias(self, called):
        found, expected = self.attended(self.X, mx.full((4, 4), 0.5))
        assert called == []
        assert mx.array_equal(found, expected)

    def test_of_attention_with_sinks(self, called):
        found, expected = self.attended(self.X, sinks=mx.ones(3))
        assert called == []
        assert mx.array_equal(found, expected)


def mixture_of(family):
    mixture = Mixture(families.build(family), ExpertOptions(specialists=2, top_k=3))
    randomise(mixture.model)
    return mixture


CALLED = {
    "llama": {"swiglu", "attention"},
    "gpt2": {"gelu_approx", "attention"},
    "gemma2": {"gelu_approx"},
}


@pytest.mark.usefixtures("on_x86")
@pytest.mark.parametrize("family", CALLED)
class TestModel:
    def test_body_uses_them_and_a_plain_call_does_not(self, called, family):
        mixture = mixture_of(family)
        called.clear()
        expected, _ = mixture(TOKENS)
        assert called == []
        hidden, _ = mixture.body(TOKENS)
        assert set(called) == CALLED[family]
        found = mixture.head(hidden)
        assert mx.abs(found - expected).max() <= 3e-6 * mx.abs(expected).max()

    def test_a_body_that_fails_leaves_none_behind(self, monkeypatch, family):
        mixture = mixture_of(family)
        found = substitutes(mixture.model)
        before = current(found)
        kind = type(mixture.sites[-1].attention)

        def broken(*args, **kwargs):
            assert current(found) != before
            raise ZeroDivisionError

        monkeypatch.setattr(kind, "__call__", broken)
        with pytest.raises(ZeroDivisionError):
            mixture.body(TOKENS)
        assert current(found) == before


@pytest.mark.usefixtures("on_x86")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_compiled_body_is_the_same(family):
    mixture = mixture_of(family)
    run = lambda tokens: mixture.body(tokens)[0]
    found, expected = mx.compile(run)(TOKENS), run(TOKENS)
    assert mx.abs(found - expected).max() <= 3e-6 * mx.abs(expected).max()


def test_where_they_are_not_wanted_body_uses_mlxs_own(monkeypatch, called):
    monkeypatch.setattr(switch, "x86_cpu", lambda: False)
    mixture = mixture_of("llama")
    mx.eval(mixture.body(TOKENS)[0])
    assert called == []
