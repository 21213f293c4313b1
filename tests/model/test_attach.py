"""Where experts go, and one clear sentence where they cannot."""

import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import _get_classes

import tests.model.families as families
from comigs_mlx.errors import ConfigError, UnsupportedModel
from comigs_mlx.model.attach import mix_in_class, sites
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.families import LLAMA
from tests.model.naive import naive_logits, randomise

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2]])

FURTHER = {
    # squared ReLU; other names; a hidden layer narrower than the block; convolutions in
    # place of some attention; parallel blocks; fused projections
    "nemotron": {
        **LLAMA,
        "hidden_act": "relu2",
        "partial_rotary_factor": 0.5,
        "norm_eps": 1e-5,
    },
    "nanochat": LLAMA,
    "openelm": {
        "head_dim": 8,
        "num_transformer_layers": 2,
        "model_dim": 32,
        "vocab_size": 64,
        "ffn_dim_divisor": 8,
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [0.5, 2.0],
    },
    "lfm2": {
        **LLAMA,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 64,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
    "gptj": {
        "vocab_size": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "rotary_dim": 4,
        "layer_norm_epsilon": 1e-5,
    },
    "glm4": {
        **LLAMA,
        "head_dim": 8,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
    },
}

EXPERT_FAMILIES = {
    **families.MIXTURES_OF_EXPERTS,
    "qwen2_moe": {
        **LLAMA,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "granitemoe": {
        **families.CONFIGS["granite"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "gpt_oss": {
        **LLAMA,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": None,
    },
}


def build(family, config):
    mx.random.seed(0)
    model_class, arguments = _get_classes({"model_type": family})
    model = model_class(arguments.from_dict({"model_type": family, **config}))
    mx.eval(model.parameters())
    return model


def assert_naive_sum(model):
    """The mixture of a model equals one whole MLP after the other."""
    mixture = Mixture(model, ExpertOptions(generalists=2, specialists=2, top_k=2))
    flat, options, found = randomise(model), mixture.options, mixture.sites
    logits = model(TOKENS)
    mixture.detach()
    expected = naive_logits(model, found, flat, options, TOKENS)
    assert mx.abs(logits - model(TOKENS)).max().item() > 1e-2
    assert mx.abs(logits - expected).max() < 3e-6 * mx.abs(expected).max()


@pytest.mark.parametrize("family", FURTHER)
def test_further_families_fit(family):
    pytest.importorskip(f"mlx_lm.models.{family}", reason="not in this mlx-lm")
    assert_naive_sum(build(family, FURTHER[family]))


@pytest.mark.parametrize("hidden", [8, 32, 100])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_hidden_layer_may_be_narrower_as_wide_or_wider(family, hidden):
    model = families.build(family, intermediate_size=hidden)
    assert [site.dims for site in sites(model)] == [32, 32]
    assert_naive_sum(model)


def test_a_site_is_read_off_the_model():
    (_, last) = sites(families.build("llama"))
    assert last.mlp_path == "model.layers.1.mlp"
    assert sorted(last.fan_out) == ["gate_proj", "up_proj"]
    assert last.mix_back == "down_proj"
    assert last.attention_path == "model.layers.1.self_attn"
    assert sorted(last.attention_linears) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert last.mlp_linears == [*last.fan_out, "down_proj"]


@pytest.mark.parametrize(("asked", "found"), [(-1, [0, 1]), (1, [1]), (2, [0, 1])])
def test_num_layers_counts_from_the_end(asked, found):
    paths = [site.mlp_path for site in sites(families.build("gpt2"), asked)]
    assert paths == [f"model.h.{i}.mlp" for i in found]


def test_more_layers_than_there_are_is_an_error_as_in_mlx_lm():
    with pytest.raises(ConfigError, match="--num-layers 3 is more than the 2 blocks"):
        sites(families.build("llama"), 3)


def test_a_model_that_cannot_be_frozen_is_refused_by_name():
    model = families.build("llama")
    del model._no_grad  # as in mlx-lm's recurrent_gemma, which skips Module.__init__
    with pytest.raises(UnsupportedModel, match="'llama' cannot take experts"):
        Mixture(model, ExpertOptions())


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_a_base_that_is_a_mixture_of_experts_is_refused(family):
    model = build(family, EXPERT_FAMILIES[family])
    with pytest.raises(UnsupportedModel) as error:
        Mixture(model, ExpertOptions())
    layer = re.escape("model.layers.0")
    assert re.fullmatch(
        f"base model family '{family}' is itself a mixture of experts \\({layer}\\); "
        "choose a base whose blocks have one plain MLP",
        str(error.value),
    )


# --- made-up families, each odd in one way -----------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def __call__(self, x, mask=None, cache=None):
        return self.proj(x)


class MLP(nn.Module):
    """`order` makes it odd."""

    def __init__(self, order="plain"):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self._order = order
        if order in ("chain", "unused"):
            self.mid = nn.Linear(16, 16)

    def __call__(self, x):
        match self._order:
            case "chain":
                return self.down(self.mid(self.up(x)))
            case "twice":
                return self.down(self.up(x)) + self.down(self.up(x))
            case "copied":
                return self.down(self.up(2 * x))
            case "wide":
                return self.up(x) + 0 * self.down(self.up(x)).sum()
            case "broken":
                raise TypeError("needs the router's logits")
            case _:
                return self.down(nn.relu(self.up(x)))


class Lone(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(8, 8)

    def __call__(self, x):
        return self.only(x)


def model_of(**parts):
    """A model of the family 'odd' with one block that has these parts."""
    block = nn.Module()
    for name, part in parts.items():
        block[name] = part
    model = nn.Module()
    model.layers = [block]
    model.model_type = "odd"
    return model


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("chain", "['mid'] do not read its input"),
        (
            "twice",
            "it has linears ['up', 'down'] and calls ['up', 'down', 'up', 'down']",
        ),
        ("copied", "['up'] do not read its input"),
        ("unused", "it has linears ['up', 'down', 'mid'] and calls ['up', 'down']"),
        ("broken", "it cannot run alone (needs the router's logits)"),
        ("wide", "it has linears ['up', 'down'] and calls ['up', 'up', 'down']"),
    ],
)
def test_an_mlp_whose_linears_do_not_fit(order, reason):
    model = model_of(attention=Attention(), mlp=MLP(order))
    linears = dict(model.layers[0].mlp.children())
    with pytest.raises(UnsupportedModel) as error:
        sites(model)
    assert str(error.value) == (
        "base model family 'odd' does not fit: the MLP at layers.0.mlp is not a set of "
        f"linears that read its input followed by one that closes it: {reason}"
    )
    assert dict(model.layers[0].mlp.children()) == linears


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (
            {"attention": Attention()},
            "1 modules (attention) that take a cache and no module that do not",
        ),
        ({"mlp": MLP()}, "no module that take a cache and 1 modules (mlp)"),
        (
            {"attention": Attention(), "mlp": MLP(), "second": MLP()},
            "2 modules (mlp, second) that do not",
        ),
        (
            {"attention": Attention(), "cross": Attention(), "mlp": MLP()},
            "2 modules (attention, cross) that take a cache",
        ),
    ],
)
def test_a_block_that_is_not_one_attention_and_one_mlp(parts, found):
    with pytest.raises(UnsupportedModel) as error:
        sites(model_of(**parts))
    assert str(error.value).startswith(
        "base model family 'odd' does not fit: layers.0 has "
    )
    assert found in str(error.value)
    assert str(error.value).endswith("expected one attention and one MLP")


def test_an_mlp_of_one_linear():
    with pytest.raises(UnsupportedModel, match=r"has linears \['only'\] and calls"):
        sites(model_of(attention=Attention(), mlp=Lone()))


@pytest.mark.parametrize("layers", [None, []])
def test_a_model_without_blocks(layers):
    model = nn.Module()
    model.model_type = "flat"
    if layers is not None:
        model.layers = layers
    with pytest.raises(UnsupportedModel) as error:
        sites(model)
    assert str(error.value) == "base model family 'flat' has no list of blocks"


def test_a_model_without_a_type_is_named_by_its_module():
    with pytest.raises(UnsupportedModel, match=r"family 'mlx\.nn\.layers\.linear'"):
        sites(nn.Linear(2, 2))


class GatedBehind(nn.Module):
    """A linear that reads the input, but is used after the one that closes the MLP."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(32, 32), nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)

    def __call__(self, x):
        return self.gate(x) * self.down(self.up(x))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("experts", [1, 3])
def test_an_mlp_that_does_not_end_with_its_last_linear(block, experts):
    model = families.build("llama")
    model.layers[block].mlp = GatedBehind()
    modules = {path: type(m) for path, m in model.named_modules()}
    with pytest.raises(UnsupportedModel, match="'llama' does not run with experts"):
        Mixture(model, ExpertOptions(generalists=0, specialists=experts))
    assert {path: type(m) for path, m in model.named_modules()} == modules


class TestPutBefore:
    class Doubled:
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Raised:
        def __call__(self, x):
            return 1 + super().__call__(x)

    def test_the_object_stays_and_its_own_call_goes_on(self):
        module = Lone()
        x = mx.ones((1, 8))
        expected, parameters = module(x), module.parameters()
        undo = mix_in_class(module, self.Doubled)
        assert isinstance(module, Lone)
        assert mx.array_equal(module(x), 2 * expected)
        assert module.parameters() == parameters
        undo()
        assert type(module) is Lone
        assert mx.array_equal(module(x), expected)

    def test_several_are_undone_in_reverse(self):
        module, x = Lone(), mx.ones((1, 8))
        expected = module(x)
        undo = [mix_in_class(module, kind) for kind in (self.Doubled, self.Raised)]
        assert mx.array_equal(module(x), 1 + 2 * expected)
        undo.pop()()
        assert mx.array_equal(module(x), 2 * expected)
        undo.pop()()
        assert type(module) is Lone


def test_sites_changes_nothing():
    model = families.build("phi3")
    before = {path: id(m) for path, m in model.named_modules()}
    sites(model)
    assert {path: id(m) for path, m in model.named_modules()} == before
