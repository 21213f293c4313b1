"""The mixture equals a naive sum of whole MLPs, for every family, plain and 4-bit."""

import mlx.core as mx
import pytest

import tests.model.families as families
from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import naive_logits, randomise

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
SHAPES = {
    "1G1S": ExpertOptions(),
    "2G3S-top2": ExpertOptions(generalists=2, specialists=3, top_k=2),
    "1G2S-top1": ExpertOptions(specialists=2, top_k=1),
    "1G": ExpertOptions(specialists=0),
}


def loss(logits):
    return mx.logsumexp(logits, axis=-1).mean() - logits[..., 5].mean()


@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "4bit"])
@pytest.mark.parametrize("family", families.CONFIGS)
class TestFamily:
    def test_attach_is_identity_and_detach_restores(self, family, bits):
        model = families.build(family, bits)
        before = model(TOKENS)
        modules = {path: id(m) for path, m in model.named_modules()}
        classes = {path: type(m) for path, m in model.named_modules()}
        mixture = Mixture(model, ExpertOptions(generalists=2, specialists=2, top_k=2))
        assert mx.abs(model(TOKENS) - before).max().item() <= 1e-5
        mixture.detach()
        assert {path: id(m) for path, m in model.named_modules()} == modules
        assert {path: type(m) for path, m in model.named_modules()} == classes
        assert mx.array_equal(model(TOKENS), before)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_forward_and_gradients_equal_naive_sum(self, family, bits, shape):
        model = families.build(family, bits)
        mixture = Mixture(model, SHAPES[shape])
        options, sites = mixture.options, mixture.sites
        flat = randomise(model)
        logits = model(TOKENS)
        grad = params.value_and_grad(model, lambda: loss(model(TOKENS)))
        _, gradients = grad(params.unflatten(flat))
        mx.eval(logits, gradients)
        mixture.detach()

        def naive(values):
            return naive_logits(model, sites, values, options, TOKENS)

        reference = naive(flat)
        assert mx.abs(logits - reference).max() < 2e-6 * mx.abs(reference).max()
        expected = mx.grad(lambda values: loss(naive(values)))(flat)
        found = params.flatten(gradients)
        assert found.keys() == expected.keys()
        for path, gradient in expected.items():
            # 1e-6: rounding in a float32 reference whose largest gradients are near 1
            allowed = 3e-5 * mx.abs(gradient).max() + 1e-6
            assert mx.abs(found[path] - gradient).max() <= allowed, path


@pytest.mark.parametrize("family", families.MIXTURES_OF_EXPERTS)
def test_moe_bases_are_refused_by_name(family):
    model = families.build(family)
    with pytest.raises(UnsupportedModel, match=f"'{family}' is itself a mixture"):
        Mixture(model, ExpertOptions())


def test_num_layers_adapts_the_last_blocks_only():
    model = families.build("llama")
    mixture = Mixture(model, ExpertOptions(num_layers=1))
    assert mixture.layers == ["model.layers.1.mlp"]
    paths = params.flatten(params.select(model, params.ROLES))
    assert paths
    assert all(path.startswith("model.layers.1.") for path in paths)
