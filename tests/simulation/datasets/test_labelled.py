from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.errors import DataError
from comigs_mlx.simulation.datasets.labelled import read_corpus

Write = Callable[..., Path]


def test_rows_with_a_label(write: Write) -> None:
    rows = [
        {"text": "one", "topic": "a"},
        {"text": "two", "topic": 3},
        {"text": "one", "topic": "b"},
    ]
    file = write({"rows.jsonl": rows}) / "rows.jsonl"
    corpus = read_corpus(str(file), "topic")
    assert corpus.samples == [{"text": "one"}, {"text": "two"}]
    assert corpus.labels == ["a", "3"]


def test_subfolders_of_any_format(write: Write) -> None:
    folder = write(
        {
            "de/train.txt": "eins\n\nzwei",
            "de/test.txt": "drei",
            "fr/all.jsonl": "",
            "fr/train.jsonl": [{"text": "un"}],
            ".hidden/x.txt": "no",
            "README.md": "no",
        }
    )
    corpus = read_corpus(str(folder), "label")
    texts = [sample["text"] for sample in corpus.samples]
    assert sorted(zip(corpus.labels, texts, strict=True)) == [
        ("de", "drei"), ("de", "eins"), ("de", "zwei"), ("fr", "un")
    ]  # fmt: skip


def test_all_problems_of_a_file_at_once(write: Write) -> None:
    lines = '{"text": "a", "label": "x"}\n{"text": "b"}\nnot json\n{"label": "y"}\n'
    file = write({"rows.jsonl": lines}) / "rows.jsonl"
    with pytest.raises(DataError) as error:
        read_corpus(str(file), "label")
    found = str(error.value)
    assert f"{file}:2: expected a label, a string or a number, in 'label'" in found
    assert f"{file}:3: expected one JSON object" in found
    assert f"{file}:4: found keys label: expected text, like the first row" in found


@pytest.mark.parametrize("name", ["missing", "rows.txt"])
def test_neither_rows_nor_folders(write: Write, name: str) -> None:
    folder = write({"rows.txt": "text"})
    with pytest.raises(DataError, match="expected a .jsonl file whose rows have a lab"):
        read_corpus(str(folder / name), "label")


def test_a_folder_without_subfolders(write: Write) -> None:
    with pytest.raises(DataError, match="expected one subfolder a label, found none"):
        read_corpus(str(write({"a.txt": "x"})), "label")


def test_a_file_without_rows(write: Write) -> None:
    file = write({"rows.jsonl": "\n"}) / "rows.jsonl"
    with pytest.raises(DataError, match="holds no rows: add documents"):
        read_corpus(str(file), "label")
