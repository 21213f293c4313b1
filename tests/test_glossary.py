"""The words in use: each is explained once, and those that were retired stay away.

`RETIRED` maps a word to what is said instead. To retire another word, add a line: it is
searched for as a whole word (or identifier) with these very letters. `STILL_MEANT`
names the places where such a word stands for something else, or in a file format that
must not change.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"

RETIRED = {
    "cut short": "clipped",
    "discreet": "redaction",
    "Halves": "Backbone",
    "Heard": "TokenDetails",
    "hub_commit": "hub.commit",
    "in_bulk": "frozen(False) and fast_functions()",
    "Joint": "Backbone",
    "lane": "stream",
    "lanes": "streams (platform.cpu_streams)",
    "Meeting": "Update and Method.personal",
    "memory_store": "memory",
    "NOBODY": "NO_EXPERTS",
    "Office": "ModelQueue",
    "Person": "ParticipantData",
    "private_contribution": "privacy",
    "put_before": "mix_in_class",
    "rehearsal": "check",
    "_rehearse": "_check_forward",
    "shaping": "expert_shapes",
    "Speaker": "ChatEngine",
    "Speech": "LoadedRun",
    "Standing": "Status",
    "surgery": "attach",
    "swapping": "trainer_state",
    "tensorfile": "tensors",
    "train_options": "options",
    "Trunk": "Backbone",
    "unsaid": "quiet",
    "vouching": "attribution",
    "_wear": "load_run",
    "Wire": "BlockRouting",
    "woken": "touch",
    "yaml_files": "config",
}

STILL_MEANT = {
    ("lanes", "comigs_mlx/runs/session.py"),  # a key of trainer_state.json
    ("lanes", "tests/runs/test_session.py"),
}

SEARCHED = (
    ("comigs_mlx", "**/*.py"),
    ("app", "**/*.py"),
    ("scripts", "*.*"),
    ("tests", "**/*.py"),
    ("docs", "**/*.md"),
    (".", "README.md"),
)
"""Folders and their files; CHANGELOG.md and LOG.md tell of the past."""

TERM = re.compile(r"^- \*\*(.+?)\*\*: (.+?)(?=^- |^## |\Z)", re.MULTILINE | re.DOTALL)


def texts():
    for folder, pattern in SEARCHED:
        for path in sorted((ROOT / folder).glob(pattern)):
            if path != Path(__file__):
                yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


@pytest.fixture(scope="module")
def everything():
    return dict(texts())


def test_the_search_reads_code_tests_and_docs(everything):
    for name in (
        "comigs_mlx/model/mixture.py",
        "app/layout.py",
        "tests/test_train.py",
        "docs/glossary.md",
        "README.md",
    ):
        assert name in everything


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_stays_away(word, everything):
    whole = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(word)}(?![A-Za-z0-9_])")
    found = [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}"
        for name, text in everything.items()
        if (word, name) not in STILL_MEANT
        for match in whole.finditer(text)
    ]
    assert not found, f"say {RETIRED[word]!r} instead of {word!r} in {found}"


def test_every_exception_is_needed(everything):
    for word, name in STILL_MEANT:
        assert re.search(rf"\b{word}\b", everything[name]), (word, name)


class TestGlossary:
    def terms(self):
        return TERM.findall(GLOSSARY.read_text(encoding="utf-8"))

    def test_explains_every_term_once(self):
        names = [name for name, _ in self.terms()]
        assert len(names) == len(set(names)) >= 30

    def test_explains_in_one_or_two_sentences(self):
        for name, meaning in self.terms():
            sentences = re.findall(r"\.(?=\s|$)", meaning.strip())
            assert 1 <= len(sentences) <= 2, name

    def test_has_terms_that_are_in_use(self, everything):
        elsewhere = {k: v for k, v in everything.items() if k != "docs/glossary.md"}
        words = " ".join(" ".join(elsewhere.values()).lower().split())
        names = {name for name, _ in self.terms()}
        for name in names:
            for part in name.split(" and "):
                assert part.lower() in words, part
