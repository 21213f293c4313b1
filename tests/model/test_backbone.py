"""Body and head make what the whole model makes, for every family."""

import mlx.core as mx
import mlx.nn as nn
import pytest

import tests.model.families as families
from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.model.backbone import Backbone
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from tests.model.naive import randomise

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def halved(family, bits=None):
    """A bare model, its backbone, and what undoes them."""
    model, undo = families.build(family, bits), []
    return model, Backbone(model, undo.append), undo


def detach(undo):
    while undo:
        undo.pop()()


def in_one_row(array):
    """`[batch, tokens, ...]` -> `[1, batch * tokens, ...]`."""
    return array.reshape(1, -1, array.shape[-1])


def state(model):
    """Everything a detach must bring back."""
    return {
        path: (id(module), type(module), {*vars(module)}, {*module})
        for path, module in model.named_modules()
    }


@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "4bit"])
@pytest.mark.parametrize("family", families.CONFIGS)
class TestFamily:
    def test_head_of_body_is_the_whole_model_bit_for_bit(self, family, bits):
        expected = families.build(family, bits)(TOKENS)
        _, backbone, _ = halved(family, bits)
        hidden = backbone.body(TOKENS)
        assert hidden.shape[:-1] == TOKENS.shape
        assert mx.array_equal(backbone.head(hidden), expected)

    def test_head_of_a_part_of_the_tokens_is_that_part(self, family, bits):
        """Products of fewer rows may add up in another order: hence not to the bit."""
        model, backbone, _ = halved(family, bits)
        expected, hidden = model(TOKENS), backbone.body(TOKENS)
        allowed = 1e-6 * mx.abs(expected).max().item()
        for rows in (slice(0, 1), slice(2, 5), slice(5, 14)):
            part = backbone.head(in_one_row(hidden)[:, rows])
            mine = in_one_row(expected)[:, rows]
            assert part.shape == mine.shape
            assert mx.abs(part - mine).max().item() <= allowed

    def test_detach_leaves_the_very_classes_and_attributes(self, family, bits):
        model, undo = families.build(family, bits), []
        before = state(model)
        backbone = Backbone(model, undo.append)
        backbone.head(backbone.body(TOKENS))
        assert state(model) != before
        detach(undo)
        assert state(model) == before


@pytest.mark.parametrize("selection", ["auto", "base", "generalist", (0.2, 0.3, 0.1)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_of_a_mixture(family, selection):
    mixture = Mixture(families.build(family), ExpertOptions(specialists=2))
    randomise(mixture.model)
    with mixture.selected(selection):
        expected, routing = mixture(TOKENS)
        hidden, again = mixture.body(TOKENS)
        found = mixture.head(hidden)
    assert mx.abs(found - expected).max() <= 3e-6 * mx.abs(expected).max()
    for mine, theirs in zip(again.arrays(), routing.arrays(), strict=True):
        assert mine.shape == theirs.shape
        assert mx.allclose(mine, theirs, atol=1e-5)


def test_the_head_reads_no_token_and_no_block():
    """With embeddings and blocks broken it is the same."""
    model, backbone, _ = halved("llama")
    hidden = backbone.body(TOKENS)
    expected = backbone.head(hidden)
    weight = model.model.embed_tokens.weight
    model.model.embed_tokens.weight = mx.full(weight.shape, mx.nan)
    model.model.layers[0].mlp.up_proj.weight[:] = mx.nan
    assert mx.array_equal(backbone.head(hidden), expected)


@pytest.mark.parametrize("family", sorted({*families.CONFIGS} - {"gpt_neox"}))
def test_the_body_makes_no_logits(family):
    """Not so for gpt_neox: there the owner of the blocks makes the logits as well."""
    _, backbone, _ = halved(family)
    assert backbone.body(TOKENS).shape == (*TOKENS.shape, 32)


def test_the_body_does_not_read_the_heads_weight():
    model, backbone, _ = halved("llama")
    expected = backbone.body(TOKENS)
    model.lm_head.weight = mx.full(model.lm_head.weight.shape, mx.nan)
    assert mx.array_equal(backbone.body(TOKENS), expected)
    assert mx.isnan(backbone.head(expected)).all()


def test_gradients_go_through_both():
    model, backbone, _ = halved("llama")
    direction = mx.random.normal((2, 7, 32), key=mx.random.key(2))

    def by_backbone(shift):
        return backbone.head(backbone.body(TOKENS) + shift * direction).square().mean()

    def by_norm(shift):
        hidden = model.model(TOKENS) + shift * direction
        return model.lm_head(hidden).square().mean()

    at = mx.array(0.0)
    expected = mx.grad(by_norm)(at)
    assert abs(expected.item()) > 1e-4
    assert mx.grad(by_backbone)(at).item() == pytest.approx(expected.item(), rel=1e-5)


class TestAfterAnError:
    def test_in_the_body(self, monkeypatch):
        model, backbone, _ = halved("llama")
        expected = backbone.head(backbone.body(TOKENS))
        with monkeypatch.context() as patch:
            patch.setattr(type(model.model.norm), "__call__", fails)
            with pytest.raises(ZeroDivisionError):
                backbone.body(TOKENS)
        assert (backbone._hand_over.asked, backbone._hand_over.hidden) == (False, None)
        assert mx.array_equal(backbone.head(backbone.body(TOKENS)), expected)
        assert mx.array_equal(model(TOKENS), expected)
        assert backbone._hand_over.hidden is None  # a call outside keeps no array alive

    def test_in_the_head(self, monkeypatch):
        model, backbone, _ = halved("llama")
        hidden, others = backbone.body(TOKENS), TOKENS + 1
        expected = model(others)
        with monkeypatch.context() as patch:
            patch.setattr(nn.Linear, "__call__", fails)
            with pytest.raises(ZeroDivisionError):
                backbone.head(hidden)
        assert mx.array_equal(model(others), expected)


def fails(*args, **kwargs):
    raise ZeroDivisionError


def test_a_holder_that_is_never_called_does_not_end_the_body():
    """The list of plamo's blocks is in a module of which only the list is used."""
    model, backbone, undo = halved("plamo")
    hidden = backbone.body(TOKENS)
    expected = model.model(TOKENS)
    assert mx.array_equal(hidden, expected)
    detach(undo)
    assert type(model.model).__name__ == "PlamoModel"
    assert type(model.model.layers).__name__ == "PlamoDecoder"


def test_a_model_that_runs_whole_but_not_as_body_and_head_is_refused(monkeypatch):
    """The check is what training does: what training runs has been tried before."""
    model = families.build("llama")
    before = state(model)
    monkeypatch.setattr(Backbone, "head", fails)
    with pytest.raises(UnsupportedModel, match="'llama' does not run with experts"):
        Mixture(model, ExpertOptions())
    assert state(model) == before


class TestNoOwner:
    """A model whose `layers` no module of it holds as they are."""

    TEXT = (
        "base model family 'llama' does not fit: no module of it holds its list of "
        "blocks"
    )

    @pytest.fixture
    def model(self, monkeypatch):
        model = families.build("llama")
        last = property(lambda self: self.model.layers[1:])
        monkeypatch.setattr(type(model), "layers", last)
        return model

    def test_is_refused_in_one_sentence_and_nothing_is_changed(self, model):
        before, undo = state(model), []
        with pytest.raises(UnsupportedModel) as error:
            Backbone(model, undo.append)
        assert str(error.value) == self.TEXT
        assert undo == []
        assert state(model) == before

    def test_takes_no_experts(self, model):
        before = state(model)
        with pytest.raises(UnsupportedModel) as error:
            Mixture(model, ExpertOptions())
        assert str(error.value) == self.TEXT
        assert state(model) == before
