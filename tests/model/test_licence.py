"""The licence of a base model, from its folder, and what it asks for."""

import pytest

from comigs_mlx.model.demo import demo_folder
from comigs_mlx.model.licence import HUB_IDS, Licence, normal, of_folder

CARD = "---\nlicense: {}\nbase_model: x/y\n---\n# A model\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": CARD.format("apache-2.0")}, "apache-2.0"),
        ({"README.md": CARD.format("Llama3.2")}, "llama3.2"),
        ({"README.md": CARD.format("'gemma'")}, "gemma"),
        ({"README.md": CARD.format("other\nlicense_name: My Terms")}, "my-terms"),
        ({"README.md": CARD.format("other")}, "other"),
        ({"README.md": "\ufeff" + CARD.format("mit").replace("\n", "\r\n")}, "mit"),
        ({"README.md": CARD.format("[mit, x]")}, None),
        ({"README.md": CARD.format("[")}, None),
        ({"README.md": "license: mit"}, None),  # no front matter
        ({"LICENSE": "\n  Apache License\n   Version 2.0, January"}, "apache-2.0"),
        ({"LICENSE.txt": "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT"}, "llama3.2"),
        ({"LICENSE": "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"}, "llama3"),
        ({"LICENSE.md": "# Gemma Terms of Use"}, "gemma"),
        ({"LICENSE": b"\xff\xfe"}, None),
        ({"config.json": '{"license": "MIT"}'}, "mit"),
        ({"config.json": '{"model_type": "llama"}'}, None),  # no family's licence
        ({"config.json": "["}, None),
        ({}, None),
        # The card goes first: a licence file may be that of a part.
        ({"README.md": CARD.format("gemma"), "LICENSE": "MIT License"}, "gemma"),
        ({"README.md": "# no licence", "LICENSE": "MIT License"}, "mit"),
    ],
)
def test_is_found(write, files, expected):
    folder = write(files)
    licence = of_folder(folder)
    assert licence.name == expected
    assert {file.name for file in licence.files} == files.keys() - {
        "README.md",
        "config.json",
    }


def test_of_the_demo_model_and_of_no_folder(tmp_path):
    assert of_folder(demo_folder()).name == "apache-2.0"
    assert of_folder(tmp_path / "none") == Licence()


@pytest.mark.parametrize("name", [None, 3, "", "a b!", "x" * 65, "-x", "mit\n[x](y)"])
def test_what_is_no_name(name):
    assert normal(name) is None


class TestDuties:
    @pytest.mark.parametrize("name", ["llama3.1", "llama3.2", "llama3.3", "llama4"])
    def test_of_llama(self, name):
        text = "\n".join(Licence(name).duties)
        assert 'show "Built with Llama"' in text
        assert 'begin the name of what you share with "Llama"' in text
        assert "give a copy of the agreement" in text
        assert f'"Llama {name[5:]} is licensed under the Llama {name[5:]} Comm' in text

    def test_the_mark(self):
        assert Licence("llama3.2").mark == "Built with Llama"
        assert Licence("gemma").mark is Licence("llama2").mark is Licence().mark is None

    def test_of_older_llamas(self):
        assert '"Built with Meta Llama 3"' in Licence("llama3").duties[0]
        assert 'with "Llama 3"' in Licence("llama3").duties[0]
        assert "Built with" not in " ".join(Licence("llama2").duties)

    def test_of_gemma(self):
        first, second = Licence("gemma").duties
        assert "use restrictions" in first
        assert "copy of the agreement" in first
        assert "modified" in second

    @pytest.mark.parametrize("name", ["apache-2.0", "mit", "my-terms"])
    def test_of_most_none(self, name):
        assert Licence(name).duties == ()

    def test_of_others(self):
        assert "commercial" in Licence("cc-by-nc-4.0").duties[0]
        assert "nothing says" in Licence().duties[0]


def test_in_one_sentence():
    assert Licence("mit").sentence == "The base model's licence: mit."
    assert "Llama 3.2 Community License; Llama" in Licence("llama3.2").sentence
    assert Licence().sentence.startswith("The base model's licence: not known; noth")


def test_the_card_says_what_the_hub_takes():
    assert Licence("llama3.2").metadata == {"license": "llama3.2"}
    assert Licence("my-terms").metadata == {
        "license": "other",
        "license_name": "my-terms",
    }
    assert Licence().metadata == {}
    assert all(normal(name) == name for name in HUB_IDS)
