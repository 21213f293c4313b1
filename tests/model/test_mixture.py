"""Which experts speak, what that costs, and that a detach leaves no trace."""

import math
import re
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

import tests.model.families as families
from comigs_mlx.errors import ConfigError, UnsupportedModel
from comigs_mlx.model import mixture as mixture_module
from comigs_mlx.model import params
from comigs_mlx.model.experts import FanOut, MixBack
from comigs_mlx.model.gradient_checkpointing import recompute_blocks
from comigs_mlx.model.lora import SharedLoRA
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import allowed
from comigs_mlx.options import ExpertOptions
from tests.model.naive import naive_logits, randomise, router_weights

TOKENS = mx.random.randint(0, 60, (2, 11), key=mx.random.key(0))


def attached(family="llama", bits=None, std=0.1, **options):
    """A mixture whose every value is random and matters; also its values, flat."""
    mixture = Mixture(families.build(family, bits), ExpertOptions(**options))
    return mixture, randomise(mixture.model, std=std)


def logits_of(mixture, selection="auto"):
    with mixture.selected(selection):
        logits, _ = mixture(TOKENS)
    mx.eval(logits)
    return logits


def naive(mixture, flat, weights_of):
    """The naive sum with other weights; detaches the mixture."""
    model, sites, options = mixture.model, mixture.sites, mixture.options
    mixture.detach()
    return naive_logits(model, sites, flat, options, TOKENS, weights_of)


def assert_close(found, expected, relative=3e-6):
    scale = mx.abs(expected).max().item()
    assert mx.abs(found - expected).max().item() < relative * max(scale, 1.0)


def merged(family, mixture, flat, expert_pairs):
    """The bare model with W + scale * (A B)^T in place of W: a LoRA merged by hand."""
    model = families.build(family)
    paths = dict(model.named_modules())
    for site in mixture.sites:
        for owner, names in (
            (site.mlp_path, site.mlp_linears),
            (site.attention_path, site.attention_linears),
        ):
            for name in names:
                at = f"{owner}.{name}"
                a, b = expert_pairs(flat, at)
                linear = paths[at]
                linear.weight = linear.weight + mixture.options.scale * (a @ b).T
    return model


def first_generalist(flat, at):
    a, b = flat[f"{at}.generalist.lora_a"], flat[f"{at}.generalist.lora_b"]
    return (a, b) if a.ndim == 2 else (a[0], b[0])


class TestSelection:
    @pytest.mark.parametrize("bits", [None, 4])
    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_base_is_the_bare_model_bit_for_bit(self, family, bits):
        expected = families.build(family, bits)(TOKENS)
        mixture, _ = attached(family, bits, generalists=2, specialists=2)
        assert not mx.array_equal(logits_of(mixture), expected)
        assert mx.array_equal(logits_of(mixture, "base"), expected)

    def test_base_routes_nothing(self):
        mixture, _ = attached()
        with mixture.selected("base"):
            _, routing = mixture(TOKENS)
        assert [field.shape for field in routing.arrays()] == [(0, 2, 11, 2)] * 3

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    @pytest.mark.parametrize("top_k", [1, 2])
    def test_a_single_generalist_is_a_merged_lora(self, family, top_k):
        mixture, flat = attached(family, specialists=2, top_k=top_k)
        with mixture.selected("generalist"):
            logits, routing = mixture(TOKENS)
        expected = mx.broadcast_to(mx.array([1.0, 0.0, 0.0]), (2, 2, 11, 3))
        assert mx.array_equal(routing.weights, expected)
        assert_close(logits, merged(family, mixture, flat, first_generalist)(TOKENS))

    def test_a_single_specialist_has_weight_one_with_attention_on(self):
        mixture, flat = attached(generalists=2, top_k=3)

        def pairs(flat, at):
            if f"{at}.specialist.lora_a" not in flat:
                return first_generalist(flat, at)  # attention
            return tuple(flat[f"{at}.specialist.lora_{ab}"][0] for ab in "ab")

        found = logits_of(mixture, "specialist")
        assert_close(found, merged("llama", mixture, flat, pairs)(TOKENS))

    @pytest.mark.parametrize(
        ("role", "first", "last"), [("generalist", 0, 2), ("specialist", 2, 5)]
    )
    @pytest.mark.parametrize("top_k", [1, 2])
    def test_a_role_is_the_router_among_its_experts(self, role, first, last, top_k):
        mixture, flat = attached(generalists=2, specialists=3, top_k=top_k)
        found = logits_of(mixture, role)

        def weights_of(x, matrix):
            among = router_weights(x, matrix[first:last], top_k)
            edges = [(0, 0)] * (among.ndim - 1) + [(first, 5 - last)]
            return mx.pad(among, edges)

        assert_close(found, naive(mixture, flat, weights_of))

    @pytest.mark.parametrize(
        "weights",
        [(0.3, 0.7, 0.0), (0.2, 0.3, 0.5), (0.5, 0.0, 1.0), (0.0, 0.1, 0.0), (2, 3, 4)],
    )
    @pytest.mark.parametrize("family", ["llama", "gpt2", "granite"])
    def test_fixed_weights_are_the_naive_sum(self, family, weights):
        """Also where they do not sum to 1: a bias then counts that many times."""
        mixture, flat = attached(family, generalists=2)
        with mixture.selected(weights):
            found, routing = mixture(TOKENS)
        given = mx.array(weights, mx.float32)
        assert mx.array_equal(routing.weights, mx.broadcast_to(given, (2, 2, 11, 3)))
        assert_close(found, naive(mixture, flat, lambda x, _: given), 1e-5)

    def test_fixed_weights_meet_an_out_projection_that_has_a_bias(self):
        """What the test above relies on, for the families it names."""
        for family in ("gpt2", "granite"):
            mixture, _ = attached(family)
            closing = mixture.sites[0].mlp[mixture.sites[0].mix_back]
            assert closing.linear.bias.abs().max().item() > 0

    def test_the_order_of_fixed_weights_is_that_of_the_names(self):
        mixture, flat = attached(specialists=2, top_k=3)
        assert mixture.options.names == ["generalist", "specialist", "specialist-1"]
        assert_close(
            logits_of(mixture, (1.0, 0.0, 0.0)), logits_of(mixture, "generalist")
        )

        def pairs(flat, at):
            if f"{at}.specialist.lora_a" not in flat:
                return first_generalist(flat, at)
            return tuple(flat[f"{at}.specialist.lora_{ab}"][1] for ab in "ab")

        last = merged("llama", mixture, flat, pairs)(TOKENS)
        assert_close(logits_of(mixture, (0.0, 0.0, 1.0)), last)

    @pytest.mark.parametrize(
        ("selection", "text"),
        [
            ((0.5,), "expected 2 weights of at least 0, for generalist, specialist"),
            ((0.2, 0.3, 0.5), "expected 2 weights"),
            ((), "expected 2 weights"),
            ((-0.1, 1.1), "weights of at least 0"),
            ((math.nan, 1.0), "weights of at least 0"),
            ((math.inf, 1.0), "weights of at least 0"),
            ((0.0, 0.0), "all expert weights are 0: use base instead"),
            ("genralist", "unknown experts 'genralist': choose auto, base, generalist"),
            ("", "or 2 weights with commas between them"),
        ],
    )
    def test_what_cannot_be_selected(self, selection, text):
        mixture, _ = attached()
        before = logits_of(mixture)
        with pytest.raises(ConfigError, match=re.escape(text)):
            mixture.select(selection)
        assert mixture.selection == "auto"
        assert mx.array_equal(logits_of(mixture), before)

    @pytest.mark.parametrize(
        ("options", "role"),
        [({"generalists": 0, "specialists": 2}, "generalist")]
        + [({"specialists": 0}, "specialist")],
    )
    def test_a_role_that_is_not_there(self, options, role):
        mixture, _ = attached(**options)
        with pytest.raises(ConfigError, match=f"^this mixture has no {role}$"):
            mixture.select(role)
        assert allowed(role, mixture.options) == ()

    def test_selected_ends_with_its_block_also_after_an_error(self):
        mixture, _ = attached()
        before = logits_of(mixture)

        def fail_with(selection):
            with mixture.selected(selection):
                raise RuntimeError(mixture.selection)

        with mixture.selected((1.0, 0.5)):
            with pytest.raises(RuntimeError, match="base"):
                fail_with("base")
            assert mixture.selection == (1.0, 0.5)
            with pytest.raises(ConfigError, match="nobody"):
                fail_with("nobody")
            assert mixture.selection == (1.0, 0.5)
        assert mixture.selection == "auto"
        assert mx.array_equal(logits_of(mixture), before)

    def test_one_expert_is_that_expert_always(self):
        mixture, flat = attached(specialists=0)
        assert mixture.options.top_k == 1  # the default of 2 is lowered
        assert mx.array_equal(logits_of(mixture), logits_of(mixture, "generalist"))
        expected = merged("llama", mixture, flat, first_generalist)(TOKENS)
        assert_close(logits_of(mixture), expected)


def state(model):
    """Everything a detach must bring back."""
    modules = dict(model.named_modules())
    return {
        path: (
            id(module),
            type(module),
            {*vars(module)},
            {*module},
            set(module._no_grad),
        )
        for path, module in modules.items()
    }


class TestAttachAndDetach:
    @pytest.mark.parametrize("frozen", [True, False])
    def test_detach_brings_back_every_object_class_and_attribute(self, frozen):
        model = families.build("llama")
        if frozen:
            model.freeze()
        before, expected = state(model), model(TOKENS)
        mixture = Mixture(model, ExpertOptions(specialists=3))
        recompute_blocks(mixture)
        randomise(model)
        assert state(model) != before
        mixture.detach()
        assert state(model) == before
        assert mx.array_equal(model(TOKENS), expected)
        mixture.detach()  # twice is once
        assert state(model) == before

    def test_attach_after_detach_gives_the_same_again(self):
        model = families.build("gpt2")
        options = ExpertOptions(specialists=2)

        def start(seed):
            mixture = Mixture(model, options, seed)
            values = params.flatten(params.select(model, params.ROLES))
            mixture.detach()
            return values

        first, again, other = start(3), start(3), start(4)
        assert first.keys() == again.keys() == other.keys()
        for path, array in first.items():
            assert mx.array_equal(array, again[path])
            if not path.endswith("lora_b"):
                assert not mx.array_equal(array, other[path])

    def test_starting_values_follow_the_method(self):
        """A uniform within 1 / sqrt(in) (kaiming, a = sqrt 5), B = 0, all different."""
        model = families.build("llama")
        Mixture(model, ExpertOptions(generalists=2, specialists=2, rank=16))
        seen = set()
        for path, array in params.flatten(params.select(model, params.ROLES)).items():
            if path.endswith("lora_b"):
                assert not array.any()
                continue
            assert array.dtype == mx.float32
            assert hash(np.array(array).tobytes()) not in seen
            seen.add(hash(np.array(array).tobytes()))
            if path.endswith("lora_a"):
                bound = 1 / math.sqrt(array.shape[-2])
                assert 0.9 * bound < array.abs().max().item() <= bound
                spread = array.square().mean().sqrt().item()
                assert abs(spread / (bound / math.sqrt(3)) - 1) < 0.1

    def test_only_experts_and_routers_are_trainable(self):
        model = families.build("llama")
        base = {path: a.shape for path, a in params.flatten(model.parameters()).items()}
        mixture = Mixture(model, ExpertOptions())
        trainable = params.flatten(model.trainable_parameters())
        roles = [params.role_of(path) for path in trainable]
        linears = 2 * (3 + 4)  # blocks * (MLP + attention)
        assert roles.count("generalist") == 2 * linears
        assert roles.count("specialist") == 2 * 2 * 3
        assert roles.count("router") == 2
        mixture.detach()
        after = params.flatten(model.parameters())
        assert {path: a.shape for path, a in after.items()} == base

    def test_no_attention_lora_leaves_attention_alone(self):
        mixture, _ = attached(attention_lora=False)
        found = [m for m in mixture.model.modules() if isinstance(m, SharedLoRA)]
        assert found == []

    def test_a_failing_forward_pass_is_refused_and_undone(self, monkeypatch):
        model = families.build("llama")
        before, expected = state(model), model(TOKENS)

        def broken(self, x):
            raise ValueError("shapes do not fit")

        monkeypatch.setattr(mixture_module.MixBack, "__call__", broken)
        with pytest.raises(UnsupportedModel) as error:
            Mixture(model, ExpertOptions())
        assert str(error.value) == (
            "base model family 'llama' does not run with experts attached: "
            "shapes do not fit"
        )
        assert state(model) == before
        assert mx.array_equal(model(TOKENS), expected)

    def test_a_block_that_is_not_routed_is_refused_and_undone(self, monkeypatch):
        model = families.build("llama")
        before = state(model)
        block = type(model.layers[0])
        run = block.__call__

        def skipping(self, x, *args, **kwargs):
            skip = self is model.layers[1] and hasattr(self.mlp, "router")
            return x if skip else run(self, x, *args, **kwargs)

        monkeypatch.setattr(block, "__call__", skipping)
        with pytest.raises(UnsupportedModel, match="1 of 2 blocks were routed"):
            Mixture(model, ExpertOptions())
        assert state(model) == before

    @pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
    def test_a_failure_in_the_middle_of_attaching_is_undone(self, monkeypatch, failure):
        model = families.build("llama")
        before, expected = state(model), model(TOKENS)
        made = []

        class Failing(SharedLoRA):
            def __init__(self, *args):
                made.append(self)
                if len(made) == 6:  # in the second block
                    raise failure
                super().__init__(*args)

        monkeypatch.setattr(mixture_module, "SharedLoRA", Failing)
        with pytest.raises(failure):
            Mixture(model, ExpertOptions())
        assert len(made) == 6
        assert state(model) == before
        assert mx.array_equal(model(TOKENS), expected)

    def test_unknown_router_is_refused_before_anything_is_changed(self):
        model = families.build("llama")
        before = state(model)
        with pytest.raises(ConfigError, match="unknown router 'magic': choose one of"):
            Mixture(model, ExpertOptions(router_type="magic"))
        assert state(model) == before


class Spy:
    """Notes the shapes and types that a module's class is called with and returns."""

    def __init__(self, monkeypatch, kind):
        self.inputs, self.outputs = [], []
        run = kind.__call__

        def call(module, x, *args, **kwargs):
            y = run(module, x, *args, **kwargs)
            self.inputs.append(x)
            self.outputs.append(y)
            return y

        monkeypatch.setattr(kind, "__call__", call)


class TestCost:
    @pytest.mark.parametrize(
        ("specialists", "top_k"), [(0, 1), (1, 2), (7, 2), (15, 1), (15, 16)]
    )
    def test_every_base_linear_is_computed_once(self, monkeypatch, specialists, top_k):
        mixture, _ = attached(specialists=specialists, top_k=top_k)
        spy = Spy(monkeypatch, nn.Linear)
        mixture(TOKENS)
        assert len(spy.inputs) == 2 * (3 + 4) + 1  # blocks * linears, and the head
        tokens = [math.prod(x.shape[:-1]) for x in spy.inputs]
        assert tokens == [TOKENS.size] * len(tokens)

    @pytest.mark.parametrize(("top_k", "slots"), [(1, 2), (2, 2), (3, 3)])
    def test_hidden_vectors_are_k_a_token_not_one_an_expert(
        self, monkeypatch, top_k, slots
    ):
        """One more holds the base's, where a token's weights do not sum to 1."""
        mixture, _ = attached(specialists=15, top_k=top_k)
        fans, backs = Spy(monkeypatch, FanOut), Spy(monkeypatch, MixBack)
        mixture(TOKENS)
        assert {y.shape for y in fans.outputs} == {(slots, 2, 11, 64)}
        assert {h.shape for h in backs.inputs} == {(slots, 2, 11, 64)}
        assert {y.shape for y in backs.outputs} == {(2, 11, 32)}

    def test_work_of_unused_experts_is_low_rank_only(self):
        """Multiply-adds of one linear, counted from the shapes of every product."""
        wide, rank, dims, hidden, tokens = 64, 1, 256, 512, 32
        model = families.build(
            "llama", hidden_size=dims, intermediate_size=hidden, num_hidden_layers=1
        )
        mixture = Mixture(
            model, ExpertOptions(specialists=wide - 1, rank=rank, attention_lora=False)
        )
        work = _products(model, mx.zeros((1, tokens), mx.int32))
        full_pass = tokens * dims * hidden
        mlp = 3 * full_pass
        low_rank = 3 * wide * rank * (2 * dims + 2 * hidden) * tokens
        attention_and_head = 4 * tokens * dims * dims + tokens * dims * 64
        router = tokens * dims * wide
        assert work <= mlp + low_rank + attention_and_head + router
        assert work < 3 * mlp  # 64 experts, one by one: 64 times
        mixture.detach()


def _products(model, tokens):
    """Multiply-adds of all matrix products of a forward pass."""
    total = 0
    real = mx.matmul, mx.addmm, mx.array.__matmul__

    def counted(a, b):
        nonlocal total
        y = real[0](a, b)
        total += y.size * a.shape[-1]
        return y

    def added(c, a, b, *args, **kwargs):
        nonlocal total
        y = real[1](c, a, b, *args, **kwargs)
        total += y.size * a.shape[-1]
        return y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx, "matmul", counted)
        patch.setattr(mx, "addmm", added)
        patch.setattr(mx.array, "__matmul__", counted)
        model(tokens)
    return total


def as_float32(tree):
    return tree_map(
        lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a,
        tree,
    )


def median_gap(a, b):
    return mx.median(mx.abs(a.astype(mx.float32) - b)).item()


class TestHalfPrecision:
    def half(self, family, bits=None, dtype=mx.bfloat16, **options):
        model = families.build(family)
        model.set_dtype(dtype)
        if bits is not None:
            nn.quantize(model, group_size=32, bits=bits)
        mixture = Mixture(model, ExpertOptions(**options))
        return mixture, randomise(model, std=0.1)

    @pytest.mark.parametrize(
        ("family", "bits", "dtype"),
        [
            ("llama", None, mx.bfloat16),
            ("llama", 4, mx.bfloat16),
            ("llama", 4, mx.float16),
            ("gpt2", None, mx.bfloat16),
        ],
    )
    @pytest.mark.parametrize("top_k", [1, 2, 3])
    def test_result_stays_half_and_close_to_float32(self, family, bits, dtype, top_k):
        shape = {"specialists": 2, "top_k": top_k}
        mixture, flat = self.half(family, bits, dtype, **shape)
        logits, routing = mixture(TOKENS)
        assert logits.dtype == dtype
        assert {field.dtype for field in routing.arrays()} == {mx.float32}
        assert {a.dtype for a in flat.values()} == {mx.float32}
        exact = Mixture(families.build(family, bits), ExpertOptions(**shape))
        exact.model.update(as_float32(mixture.model.parameters()))
        expected, exact_routing = exact(TOKENS)
        assert expected.dtype == mx.float32
        # Rounding may choose another expert where two are close: hence no maximum.
        assert (routing.chosen == exact_routing.chosen).mean().item() > 0.9
        allowed = 4 * mx.finfo(dtype).eps * mx.abs(expected).max().item()
        assert median_gap(logits, expected) < allowed
        assert median_gap(logits_of(exact, "base"), expected) > 4 * allowed

    @pytest.mark.parametrize("top_k", [1, 2, 3])
    def test_base_weights_are_never_cast(self, monkeypatch, top_k):
        mixture, _ = self.half("gpt2", specialists=2, top_k=top_k)
        cast = []
        real = mx.array.astype

        def astype(array, dtype, *args, **kwargs):
            cast.append((array.shape, array.dtype, dtype))
            return real(array, dtype, *args, **kwargs)

        spy = Spy(monkeypatch, nn.Linear)
        monkeypatch.setattr(mx.array, "astype", astype)
        logits, _ = mixture(TOKENS)
        kinds = {x.dtype for x in (*spy.inputs, *spy.outputs)}
        assert kinds == {mx.bfloat16}
        weights = {m.weight.shape for m in mixture.model.modules() if "weight" in m}
        assert cast
        assert all(shape not in weights for shape, *_ in cast)
        assert logits.dtype == mx.bfloat16

    @pytest.mark.parametrize("bits", [None, 4])
    def test_gradients_are_float32_and_finite(self, bits):
        mixture, flat = self.half("llama", bits, specialists=2)
        grad = params.value_and_grad(
            mixture.model, lambda: mixture(TOKENS)[0].astype(mx.float32).square().mean()
        )
        _, gradients = grad(params.unflatten(flat))
        for path, gradient in params.flatten(gradients).items():
            assert gradient.dtype == mx.float32
            assert mx.isfinite(gradient).all()
            assert gradient.abs().max().item() > 0, path


def test_what_was_done_last_is_undone_first():
    mixture, seen = Mixture(families.build("llama"), ExpertOptions()), []
    for number in range(3):
        mixture.on_detach(partial(seen.append, number))
    mixture.detach()
    assert seen == [2, 1, 0]


def test_an_mlp_that_fails_leaves_its_linears_as_they_are_without_experts(monkeypatch):
    mixture = Mixture(families.build("llama"), ExpertOptions())
    randomise(mixture.model)
    mlp = mixture.sites[0].mlp
    x = mx.random.normal((1, 3, 32), key=mx.random.key(1))
    expected = mlp.up_proj.linear(x)
    with monkeypatch.context() as patch:
        patch.setattr(type(mlp.down_proj), "__call__", fails)
        with pytest.raises(ZeroDivisionError):
            mixture(mx.zeros((1, 3), mx.int32))
    found = mlp.up_proj(x)
    assert found.shape == expected.shape
    assert mx.array_equal(found, expected)


def fails(*args, **kwargs):
    raise ZeroDivisionError
