"""The model card: metadata the Hub reads, text nobody else can write into."""

import dataclasses

import pytest
from huggingface_hub import ModelCard, ModelCardData

import tests.federation.sharing as sharing
from comigs_mlx.federation.formats import model_card
from comigs_mlx.federation.formats.manifest import BaseModel
from comigs_mlx.federation.formats.round import Round

AGREED = sharing.manifest(sharing.tensors())
FIRST = Round()
URI = "hf://ann/pool"


def text(manifest=AGREED, round=FIRST, uri=URI):
    return model_card.render(manifest, round, uri).decode()


def with_base(base):
    return dataclasses.replace(AGREED, base_model=BaseModel(base, sharing.FINGERPRINT))


def closed(*names, rounds=1):
    round = Round()
    for _ in range(rounds):
        round = round.following({}, "mean", 0.0, names)
    return round


def test_the_hub_s_library_reads_the_metadata():
    data = ModelCard(text()).data
    assert isinstance(data, ModelCardData)
    assert data.to_dict() == {
        "library_name": "mlx",
        "pipeline_tag": "text-generation",
        "base_model": "some/model",
        "base_model_relation": "adapter",
        "tags": ["mlx", "lora", "moe", "comigs", "federated-learning"],
    }


class TestLicence:
    """The generalist's own, and what the base's asks for, which goes on with it."""

    def card(self, own=None, base=None):
        return ModelCard(
            text(dataclasses.replace(AGREED, license=own, base_license=base))
        )

    def test_is_in_the_metadata(self):
        assert self.card("apache-2.0").data.license == "apache-2.0"
        assert self.card("my-terms").data.to_dict()["license_name"] == "my-terms"
        assert self.card().data.license is None

    def test_a_llama_s_duties_stay_whatever_the_generalist_s_own_is(self):
        card = self.card("mit", "llama3.2")
        assert card.data.license == "mit"
        assert "\n**Built with Llama**\n" in card.text
        assert card.text.count("\n- Llama 3.2 Community License") == 2

    def test_gemma_s_restrictions_are_passed_on(self):
        assert "use restrictions" in self.card("gemma", "gemma").text

    def test_is_said_where_nobody_knows(self):
        assert "Nobody has said under which licence" in self.card().text


@pytest.mark.parametrize(
    ("base", "known"),
    [
        ("demo", model_card.DEMO),
        ("mlx-community/Llama-3.2-1B-Instruct-4bit",) * 2,
        ("my model", None),
        ("a/b/c", None),
        ("a--b/c", None),
        ("a/b.", None),
    ],
)
def test_only_a_model_of_the_hub_is_a_base_model(base, known):
    assert ModelCard(text(with_base(base))).data.base_model == known


def test_our_snippet_comes_first():
    blocks = text().split("```bash\n")
    pull = "python -m comigs_mlx.sync pull --federation hf://ann/pool"
    assert blocks[1].startswith(pull)
    assert "hf download ann/pool --local-dir pool\nmlx_lm.generate" in blocks[2]


def test_a_folder_s_path_is_not_shown():
    assert "/home/ann" not in text(uri="/home/ann/pool")


def test_rounds_and_contributors_are_listed():
    shown = text(round=closed("ann", "ben-2", rounds=60))
    assert "| 60 | ann, ben\\-2 |" in shown
    assert shown.count("| ann, ") == model_card.ROUNDS
    assert "Round 60 is closed, round 61 is open" in shown


def test_many_contributors_stay_short():
    shown = text(round=closed(*(f"p{n}" for n in range(1000))))
    assert "and 980 more" in shown
    assert len(shown) < 10_000


@pytest.mark.parametrize(
    "base",
    ["<script>x</script>", "`; rm -rf ~ #", "$(reboot)", "--help", "a: [b", "---"],
)
def test_a_hostile_name_does_nothing(base):
    shown = text(with_base(base))
    assert ModelCard(shown).data.to_dict()["library_name"] == "mlx"
    assert "base_model" not in ModelCard(shown).data.to_dict()
    assert "<script>" not in shown.replace("`<script>x</script>`", "")
    commands = [block.split("```")[0] for block in shown.split("```bash\n")[1:]]
    assert all(base not in c for c in commands if base not in ("--help", "---"))
    assert all(f"--model {base}" not in c for c in commands)


def test_escaped_text_has_no_meaning():
    assert model_card.escaped("[a](b) <i>") == "\\[a\\]\\(b\\) &lt;i&gt;"


def test_characters_that_turn_a_line_round_are_escaped():
    """U+202E and its like are shown, not obeyed; line separators end no line."""
    shown = text(with_base("a\u202eb\u2028c\u200bd\u2066e"))
    assert r"\u202e" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)
