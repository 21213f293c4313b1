from __future__ import annotations

import sys
from typing import Any

import pytest

from comigs_mlx.data.sources.hub import matches, read
from comigs_mlx.errors import DataError


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", True),
        ("HuggingFaceTB/smol-talk_2.1", True),
        ("name", False),
        ("./name", False),
        ("../name", False),
        ("~/name", False),
        ("/owner/name", False),
        ("a/b/c", False),
        ("notes/mail.txt", False),
        ("owner/name\n", False),
        ("owner\\name/x", False),
    ],
)
def test_only_dataset_ids_match(source: str, expected: bool) -> None:
    assert matches(source) is expected


def test_reads_splits_and_columns(datasets: dict[str, Any]) -> None:
    row = {"text": "a", "id": 1}
    datasets["o/n"] = {"train": [row], "validation": [row], "test": [], "extra": [row]}
    found = read("o/n")
    assert found.splits == {
        "train": [{"text": "a"}],
        "valid": [{"text": "a"}],
        "test": [],
    }
    assert found.notes == ["ignored split extra of o/n"]


def test_fillers_of_columns_are_no_content(datasets: dict[str, Any]) -> None:
    """Two tools with other arguments, as Parquet gives every row the keys of all."""

    def row(name: str, arguments: Any, properties: Any) -> dict[str, Any]:
        call = {"function": {"name": name, "arguments": arguments}, "id": None}
        messages = [
            {"role": "user", "content": "hi", "tool_calls": None, "name": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        return {"messages": messages, "tools": [{"parameters": properties}]}

    text, filler = {"type": "string"}, {"type": None, "of": {"x": None}}
    datasets["o/n"] = {
        "train": [
            row("sun", {"city": "Bonn", "a": None}, {"city": text, "a": None}),
            row("add", {"city": None, "a": [1, None]}, {"city": filler, "a": text}),
            row("now", {"city": None, "a": None}, {"city": None, "a": None}),
        ]
    }
    train = read("o/n").splits["train"]
    calls = [r["messages"][1]["tool_calls"][0]["function"]["arguments"] for r in train]
    assert calls == [{"city": "Bonn"}, {"a": [1, None]}, {}]
    schemas = [r["tools"][0].get("parameters") for r in train]
    assert schemas == [{"city": text}, {"a": text}, None]
    assert train[0]["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "sun", "arguments": calls[0]}}],
        },
    ]


@pytest.mark.parametrize("names", [["validation", "valid"], ["val"], ["dev", "valid"]])
def test_all_validation_splits_are_read(
    names: list[str], datasets: dict[str, Any]
) -> None:
    rows = [{"text": name} for name in names]
    datasets["o/n"] = {"train": rows} | {
        n: [r] for n, r in zip(names, rows, strict=True)
    }
    found = read("o/n")
    assert found.splits["valid"] == rows
    together = [f"valid is read from {', '.join(names)} together"]
    assert found.notes == (together if len(names) > 1 else [])


def test_bad_rows_are_named_by_split_and_index(datasets: dict[str, Any]) -> None:
    datasets["o/n"] = {"train": [{"text": "a"}, {"text": None}], "valid": [{"x": 1}]}
    with pytest.raises(DataError) as error:
        read("o/n")
    assert str(error.value).splitlines() == [
        "o/n train[1]: text is null: expected a string",
        "o/n valid[0]: found keys x: expected prompt and completion, or messages, or "
        "text (--columns names others)",
    ]


def test_no_train_split(datasets: dict[str, Any]) -> None:
    datasets["o/n"] = {"default": []}
    with pytest.raises(DataError, match="expected a split train, found default"):
        read("o/n")


def test_failures_are_one_line(datasets: dict[str, Any]) -> None:
    with pytest.raises(DataError) as error:
        read("o/unknown")
    assert str(error.value) == (
        "o/unknown: no such folder, and not loaded from the Hugging Face Hub "
        "(FileNotFoundError: Dataset 'o/unknown' doesn't exist.): check the name and "
        "the connection"
    )


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'comigs-mlx\[data\]'"):
        read("o/n")
