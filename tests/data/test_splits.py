from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.splits import (
    _divided,
    divide,
    load_split,
    load_splits,
    position,
)
from comigs_mlx.errors import DataError

texts = st.lists(st.text(max_size=8), max_size=40)


def samples(words: list[str]) -> list[dict[str, Any]]:
    return [{"text": word} for word in words]


def home(splits: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {s["text"]: name for name, part in splits.items() for s in part}


@given(texts, texts)
def test_adding_documents_moves_no_other(before: list[str], added: list[str]) -> None:
    old = home(divide({"all": samples(before)}))
    new = home(divide({"all": samples(added + before)}))
    assert {text: new[text] for text in old} == old


@given(texts)
def test_dividing_keeps_every_document_and_its_duplicates(words: list[str]) -> None:
    parts = divide({"all": samples(words)})
    together = [s["text"] for part in parts.values() for s in part]
    assert sorted(together) == sorted(words)
    for name, part in parts.items():
        assert all(home(parts)[s["text"]] == name for s in part)


def test_shares_are_80_10_10() -> None:
    parts = divide({"train": samples([f"document {i}" for i in range(5000)])})
    shares = {name: len(part) / 5000 for name, part in parts.items()}
    assert shares == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.02)


def test_position_ignores_the_order_of_keys() -> None:
    one = {"prompt": "a", "completion": "b"}
    assert position(one) == position(dict(reversed(one.items())))
    assert position(one) != position({"prompt": "b", "completion": "a"})


def test_missing_valid_is_cut_from_train_where_the_hash_would_put_it() -> None:
    train, test = samples([str(i) for i in range(200)]), samples(["t"])
    parts = divide({"train": train, "test": test})
    assert parts["valid"] == divide({"all": train})["valid"]
    assert len(parts["train"]) + len(parts["valid"]) == 200
    assert parts["test"] == test


def test_missing_test_stays_empty_beside_a_given_valid(
    write: Callable[..., Path],
) -> None:
    found = load_splits(str(write({"train.txt": "a\n\nb", "valid.txt": "c"})))
    assert (found.train, found.valid) == (samples(["a", "b"]), samples(["c"]))
    assert found.test == []


def test_given_splits_lose_duplicates_in_favour_of_the_later_one(
    write: Callable[..., Path],
) -> None:
    files = {"train.txt": "a\n\na\n\nb\n\nc\n\nd\n\nd", "valid.txt": "b\n\nc\n\ne"}
    found = load_splits(str(write({**files, "test.txt": "a\n\nb"})))
    # The two d are one split's own business.
    assert [s["text"] for s in found.train] == ["d", "d"]
    assert [s["text"] for s in found.valid] == ["c", "e"]
    assert [s["text"] for s in found.test] == ["a", "b"]
    assert found.notes == [
        "dropped 4 documents from train also standing in valid or test",
        "dropped 1 document from valid also standing in test",
    ]


@settings(deadline=None)
@given(st.sets(st.text(st.sampled_from("abcdef"), max_size=5), min_size=2, max_size=6))
def test_two_documents_are_enough(words: set[str]) -> None:
    splits, notes = _divided({"all": samples(sorted(words))})
    assert splits["train"] != [] != splits["valid"]
    assert sorted(home(splits)) == sorted(words)
    plain = divide({"all": samples(sorted(words))})
    assert (splits == plain) == (notes == [])
    assert (notes == []) == (plain["train"] != [] != plain["valid"])


def test_one_document_and_its_copies_are_not(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="is empty"):
        load_splits(str(write({"a.txt": "one", "b.txt": "one"})))


def test_given_splits_stay_as_they_are() -> None:
    """A valid without a document is the user's; test text is learned from by nobody."""
    train = samples([f"document {i}" for i in range(50)])
    test = samples([str(i) for i in range(50)])
    given = {"train": train, "valid": [], "test": []}
    assert divide(given) == given == _divided(given)[0]
    assert divide({"train": train, "valid": []}) == given
    splits, notes = _divided({"train": samples(["a"]), "test": test})
    assert splits == {"train": samples(["a"]), "valid": [], "test": test}
    assert notes == []


def test_an_empty_valid_that_was_given_is_refused(write: Callable[..., Path]) -> None:
    folder = write({"train.txt": "a\n\nb\n\nc", "valid.txt": "\n"})
    with pytest.raises(DataError, match="valid is empty .documents: train 3, valid 0"):
        load_splits(str(folder))


def test_what_was_left_out_is_told_when_measuring_too(
    write: Callable[..., Path],
) -> None:
    said: list[str] = []
    folder = write({"train.txt": "a", "valid.txt": "b", "test.txt": "c", "x.txt": "d"})
    assert load_split(str(folder), "test", say=said.append)[0] == samples(["c"])
    assert said == [
        f"note: not read: x.txt in {folder}, for they are not named train, valid or "
        "test"
    ]


def test_completions_count_as_chat(write: Callable[..., Path]) -> None:
    rows = [{"prompt": str(i), "completion": "x"} for i in range(50)]
    assert load_splits(str(write({"train.jsonl": rows}))).kind == "chat"


def test_one_folder_may_hold_text_and_chat(write: Callable[..., Path]) -> None:
    rows = [{"prompt": str(i), "completion": "x"} for i in range(50)]
    folder = write({"chat.jsonl": rows, "note.txt": "a", "b.md": "b"})
    found = load_splits(str(folder))
    assert found.kind == "mixed"
    assert load_split(str(folder), "all")[1] == "mixed"
    every = [*found.train, *found.valid, *found.test]
    assert sum("text" in sample for sample in every) == 2
    assert len(every) == 52


def test_splits_of_different_kinds_are_refused(write: Callable[..., Path]) -> None:
    chat = [{"prompt": "a", "completion": "b"}]
    folder = write({"train.jsonl": [{"text": "a"}, {"text": "b"}], "valid.jsonl": chat})
    with pytest.raises(DataError, match=r"found 2 of plain text and 1 of chat: keep"):
        load_splits(str(folder))


def test_an_empty_split_names_counts_and_the_fix(write: Callable[..., Path]) -> None:
    folder = write({"train.txt": "a\n\nb", "valid.txt": "b\n\na"})
    with pytest.raises(DataError) as error:
        load_splits(str(folder))
    lines = str(error.value).splitlines()
    assert lines == [
        f"{folder}: train is empty (documents: train 0, valid 2, test 0): add "
        "documents, or give train.txt, valid.txt and test.txt (or .jsonl)",
        "dropped 2 documents from train also standing in valid or test",
    ]


@pytest.mark.parametrize("source", ["", "nowhere", "/no/such", "a/b.txt", "./a", "~/x"])
def test_what_is_not_there_is_named(source: str) -> None:
    with pytest.raises(DataError, match=f"no such file or folder: {source!r}"):
        load_splits(source)


def test_home_folder_is_expanded(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write({"train.txt": "a", "valid.txt": "b"}, "notes")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_splits("~/notes").train == [{"text": "a"}]


def test_importing_data_imports_nothing_heavy() -> None:
    code = (
        "import sys, comigs_mlx.data.batches, comigs_mlx.data.splits\n"
        "from comigs_mlx import registry\n"
        "kinds = ('format', 'source')\n"
        "[registry.load(kind, n) for kind in kinds for n in registry.names(kind)]\n"
        "heavy = {'mlx.core', 'mlx_lm', 'transformers', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "[]"
