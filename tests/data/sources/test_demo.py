from __future__ import annotations

import ast
import random
import re
import subprocess
import sys

import pytest

from comigs_mlx.data.demo_journal import GRAMMAR, entries
from comigs_mlx.data.sources import demo
from comigs_mlx.data.splits import load_splits
from comigs_mlx.errors import DataError


def texts(source: str) -> list[str]:
    return [sample["text"] for sample in demo.read(source).splits["all"]]


@pytest.mark.parametrize("persona", demo.PERSONAS)
def test_personas_are_sizeable_capped_and_free_of_duplicates(persona: str) -> None:
    found = texts(f"demo:{persona}")
    assert 60_000 < sum(len(text.encode()) for text in found) <= demo.MAX_BYTES
    assert len(found) > 50
    assert len(set(found)) == len(found)
    assert all(text.strip() for text in found)


@pytest.mark.parametrize("persona", demo.PERSONAS)
def test_every_split_of_a_persona_is_worth_using(persona: str) -> None:
    found = load_splits(f"demo:{persona}")
    for part in (found.train, found.valid, found.test):
        assert sum(len(sample["text"]) for sample in part) > 5000


def test_demo_alone_is_the_reference() -> None:
    assert texts("demo") == texts("demo:reference")


def test_unknown_persona_lists_those_there_are() -> None:
    expected = "unknown demo persona 'bob': choose one of reference, code, journal"
    with pytest.raises(DataError, match=expected):
        demo.read("demo:bob")


def test_text_missing_from_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="lacks the text of demo:reference: use demo:j"):
        demo.read("demo")


def test_code_documents_are_whole_functions_and_classes() -> None:
    for text in texts("demo:code"):
        (node,) = ast.parse(text).body
        assert isinstance(node, (ast.FunctionDef, ast.ClassDef))


def test_journal_is_the_same_in_every_process() -> None:
    code = (
        "from comigs_mlx.data.demo_journal import entries; print(*entries(40), sep='|')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    outputs = {
        subprocess.run(
            command, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert outputs == {"|".join(entries(40))}


def test_journal_grammar_is_complete_and_reached() -> None:
    used = {
        n
        for options in GRAMMAR.values()
        for o in options
        for n in re.findall(r"{(\w+)}", o)
    }
    assert used == set(GRAMMAR) - {"entry"}
    assert not any("{" in text for text in entries())


def test_journal_facts_come_back_often() -> None:
    found = list(entries())
    for fact in ("Bishop", "Odile", "Hallam", "Margit", "four-one-seven", "Patience"):
        assert 15 <= sum(fact in text for text in found) < len(found)


def test_journal_leaves_the_global_random_state_alone() -> None:
    random.seed(0)
    before = random.getstate()
    list(entries(5))
    assert random.getstate() == before
