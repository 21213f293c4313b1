"""A small base of our own: what it is, and that everyone can load it."""

import json

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model.base import load_base
from comigs_mlx.model.params import flatten
from comigs_mlx.tiny_base import architecture

TEXTS = ["the cat sat on the mat. " * 20, "she sells sea shells; früh — 猫\n\tend" * 5]


def shape(vocabulary=300, **changes):
    given = {"blocks": 2, "width": 32, "heads": 2, "context": 16, **changes}
    return architecture.BaseSize(**given, vocabulary=vocabulary)


def weights(model):
    return {
        path: np.array(array) for path, array in flatten(model.parameters()).items()
    }


class TestBuild:
    def test_number_of_parameters_is_gpt2s(self):
        v, c, d, b = 300, 16, 32, 2
        block = 4 * d * d + 8 * d * d + 4 * d + 5 * d + 4 * d
        expected = v * d + c * d + b * block + 2 * d
        assert (
            sum(a.size for a in weights(architecture.build(shape(), 0)).values())
            == expected
        )

    def test_equal_seeds_equal_bits(self):
        one, other, third = (weights(architecture.build(shape(), s)) for s in (1, 1, 2))
        assert all((one[path] == other[path]).all() for path in one)
        assert (one["model.wte.weight"] != third["model.wte.weight"]).any()

    def test_first_weights_are_gpt2s(self):
        found = weights(architecture.build(shape(width=64, blocks=8), 0))
        for path, array in found.items():
            if path.endswith("bias"):
                assert (array == 0).all()
            elif array.ndim == 1:
                assert (array == 1).all()
            else:
                expected = 0.02 / 4 if "c_proj" in path else 0.02
                assert array.std() == pytest.approx(expected, rel=0.06)

    def test_guesses_evenly_at_first(self):
        logits = architecture.build(shape(), 0)(mx.zeros((1, 4), mx.int32))
        assert np.abs(np.array(logits)).max() < 1


class TestTokenizer:
    def test_every_text_comes_back(self):
        tokenizer = architecture.train_tokenizer(TEXTS, 300)
        for text in [*TEXTS, "never seen: Ω\u200d\n\n  x", ""]:
            assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_size_and_eos(self):
        tokenizer = architecture.train_tokenizer(TEXTS, 270)
        assert len(tokenizer) == 270
        assert tokenizer.eos_token_id == 0
        assert tokenizer.convert_ids_to_tokens(0) == architecture.EOS

    def test_merges_make_texts_shorter(self):
        few, more = (architecture.train_tokenizer(TEXTS, size) for size in (257, 300))
        assert len(few.encode(TEXTS[0])) == len(TEXTS[0].encode())
        assert len(more.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2

    def test_is_the_same_each_time(self):
        one, other = (
            architecture.train_tokenizer(TEXTS, 300).backend_tokenizer.to_str()
            for _ in range(2)
        )
        assert one == other


class TestFolder:
    @pytest.fixture(scope="class")
    @classmethod
    def written(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("small") / "model"
        tokenizer = architecture.train_tokenizer(TEXTS, 300)
        model = architecture.build(shape(), 3)
        architecture.write(folder, model, shape(), tokenizer, {"seed": 3})
        return folder, model, tokenizer

    def test_loads_as_a_base_with_the_same_numbers(self, written):
        folder, model, tokenizer = written
        base = load_base(str(folder))
        found, expected = weights(base.model), weights(model)
        assert found.keys() == expected.keys()
        assert all((found[path] == expected[path]).all() for path in found)
        assert base.tokenizer.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
        assert base.tokenizer.eos_token_id == 0
        assert base.tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]

    def test_loads_in_mlx_lm(self, written):
        from mlx_lm import load

        model, tokenizer = load(str(written[0]))
        tokens = mx.array([tokenizer.encode("the cat sat")])
        expected = written[1](tokens)
        assert mx.array_equal(model(tokens), expected)

    def test_notes_stand_beside_it(self, written):
        assert json.loads((written[0] / "training.json").read_text()) == {"seed": 3}
