"""Twins, tokens and random models."""

import mlx.core as mx
import numpy as np
import pytest

import tests.model.families as families
from comigs_mlx.benchmark import models
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.shape import BenchShape
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture


def kinds(model):
    return [(path, type(module)) for path, module in model.named_modules()]


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", families.CONFIGS)
def test_a_twin_shares_every_array_and_no_module(family, bits, shape, tmp_path):
    model = families.build(family, bits)
    setting = Setting(shape, model, tmp_path)
    before, tokens = kinds(model), mx.array([[1, 2, 3]])
    expected = model(tokens)
    twin = setting.twin()
    mine, its = (params.flatten(m.parameters()) for m in (model, twin))
    assert mine.keys() == its.keys()
    assert all(mine[path] is its[path] for path in mine)
    assert kinds(twin) == before
    assert mx.array_equal(twin(tokens), expected)
    Mixture(twin, setting.expert_options(2))
    assert kinds(model) == before
    assert kinds(twin) != before


def test_tokens_depend_on_the_index_alone(setting):
    one, again, other = setting.batch(3), setting.batch(3), setting.batch(4)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.tokens, other.tokens)
    assert one.tokens.shape == (2, 9)
    assert one.mask.shape == one.documents.shape == (2, 8)
    assert 0 <= one.tokens.min() <= one.tokens.max() < setting.vocabulary == 64
    assert mx.array_equal(setting.prompt(1, 5), setting.prompt(1, 5))
    assert setting.prompt(0, 5).shape == (5,)


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 2), (4, 2)])
def test_one_generalist_and_the_rest_specialists(setting, experts, top_k):
    options = setting.expert_options(experts)
    assert (options.generalists, options.experts) == (1, experts)
    assert (options.top_k, options.rank) == (top_k, setting.shape.rank)


def test_shared_bytes_are_those_of_the_base(setting):
    sizes = [a.size for a in params.flatten(setting.model.parameters()).values()]
    assert setting.shared_bytes == 4 * sum(sizes)


def test_gpt2_has_the_size_of_gpt2():
    # Built without being computed: shapes are enough.
    config = models.RANDOM["gpt2"]
    assert (config["n_layer"], config["n_embd"], config["n_head"]) == (12, 768, 12)
    assert config["vocab_size"] == 50257


def test_a_shape_survives_json(shape):
    import json

    assert BenchShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape


@pytest.mark.parametrize(("experts", "main"), [((1, 2), 2), ((8, 4), 8), ((2,), 2)])
def test_the_headline_is_about_two_experts_or_the_first(shape, experts, main):
    import dataclasses

    assert dataclasses.replace(shape, experts=experts).main_experts == main
