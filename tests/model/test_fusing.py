"""Fused in memory: one expert at the price of the base."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.model import params
from comigs_mlx.model.fusing import fused
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model import families

TOKENS = mx.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def trained(family, bits=None, **options):
    """A mixture whose experts do something."""
    model = families.build(family, bits)
    mixture = Mixture(model, ExpertOptions(**options))
    mx.random.seed(1)
    flat = params.flatten(params.select(model, params.EXPERTS))
    moved = {path: a + 0.1 * mx.random.normal(a.shape) for path, a in flat.items()}
    model.update(params.unflatten(moved))
    return mixture


def far(a, b):
    return np.abs(np.array(a) - np.array(b)).max() / np.abs(np.array(b)).max()


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("selection", ["generalist", "specialist", (0.0, 1.0)])
def test_equals_the_expert_alone(family, bits, selection):
    mixture = trained(family, bits)
    bare, _ = mixture(TOKENS), mixture.select("base")
    with mixture.selected(selection):
        expected, _ = mixture(TOKENS)
    with fused(mixture, selection):
        found, routing = mixture(TOKENS)
    assert far(found, expected) <= 2e-6
    assert far(bare[0], expected) > 1e-2
    assert routing.weights.shape[0] == 0


def test_everything_is_put_back():
    mixture = trained("llama")
    before = {path: id(m) for path, m in mixture.model.named_modules()}
    expected, _ = mixture(TOKENS)
    with pytest.raises(KeyError), fused(mixture, "generalist"):
        raise KeyError
    assert {path: id(m) for path, m in mixture.model.named_modules()} == before
    assert mixture.selection == "auto"
    assert mx.array_equal(mixture(TOKENS)[0], expected)


def test_base_is_the_bare_model():
    mixture = trained("llama")
    with fused(mixture, "base"):
        found, _ = mixture(TOKENS)
    assert mx.array_equal(found, families.build("llama", None)(TOKENS))


@pytest.mark.parametrize(
    ("selection", "options"),
    [
        ("auto", {}),
        ("specialist", {"specialists": 2}),
        ((0.5, 0.5), {}),
        ((0.5, 0.0), {}),
    ],
)
def test_several_experts_cannot_be_fused(selection, options):
    mixture = trained("llama", **options)
    with pytest.raises(ConfigError, match="cannot be fused: choose one"):
        with fused(mixture, selection):
            pass
