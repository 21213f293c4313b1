from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.formats.jsonl import matches, read
from comigs_mlx.errors import DataError

Write = Callable[..., Path]

CHAT = {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    ]
}


def problems(source: Path) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(DataError) as error:
        read(str(source))
    return str(error.value).replace(f"{source}/", "").splitlines()


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a\u2028b"},
        CHAT,
        {**CHAT, "tools": [{"type": "function"}]},
        {"prompt": "a", "completion": "b"},
    ],
)
def test_reads_mlx_lms_formats_and_ignores_other_columns(
    write: Write, row: dict[str, Any]
) -> None:
    folder = write({"train.jsonl": [row, {**row, "id": 3}], "test.jsonl": [row]})
    assert read(str(folder)).splits == {"train": [row, row], "test": [row]}


def test_completions_come_before_messages_before_text(write: Write) -> None:
    every = {"text": "t", **CHAT, "prompt": "a", "completion": "b"}
    folder = write({"train.jsonl": [every], "valid.jsonl": [{"text": "t", **CHAT}]})
    splits = read(str(folder)).splits
    assert splits["train"] == [{"prompt": "a", "completion": "b"}]
    assert splits["valid"] == [CHAT]


def test_blank_lines_and_windows_line_ends_are_skipped(write: Write) -> None:
    file = write({"x.jsonl": b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}'})
    source = str(file / "x.jsonl")
    assert matches(source)
    assert read(source).splits == {"all": [{"text": "a"}, {"text": "b"}]}


def test_all_problems_are_told_with_file_and_line(write: Write) -> None:
    rows = [
        '{"text": "a"}',
        "",
        "{oops",
        '["text"]',
        '{"txt": 1}',
        '{"text": 5}',
        '{"text": "\\ud800"}',
        "[" * 100_000,
    ]
    folder = write(
        {"train.jsonl": "\n".join(rows), "valid.jsonl": b'\n{"text":"\xe9"}'}
    )
    half = "a string with half a character"
    assert problems(folder) == [
        "train.jsonl:3: expected one JSON object: Expecting property name enclosed in "
        "double quotes",
        "train.jsonl:4: expected an object, found a value of type list",
        "train.jsonl:5: found keys txt: expected text, like the first row",
        "train.jsonl:6: text is a value of type int: expected a string",
        f"train.jsonl:7: text is {half}: expected a string",
        "train.jsonl:8: expected one JSON object: too deeply nested",
        "valid.jsonl:2: expected UTF-8 text, found byte 0xe9: save the file as UTF-8",
    ]


def test_first_row_with_no_known_columns_names_all_formats(write: Write) -> None:
    assert problems(write({"train.jsonl": [{"q": 1, "a": 2}]})) == [
        "train.jsonl:1: found keys a, q: expected prompt and completion, or messages, "
        "or text"
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": []}, "expected a list of messages, found an empty list"),
        ({"messages": ["hi"]}, "message 1: expected an object, found a string"),
        ({"messages": 3}, "expected a list of messages, found a value of type int"),
        ({"messages": [{"role": "user"}]},
         "message 1: found keys role: expected role and content"),
        ({"messages": [{"role": "user", "content": None}]},
         "message 1: content is null: expected a string"),
        ({**CHAT, "tools": "all"}, "tools is a string: expected a list"),
        ({"prompt": "a", "completion": None}, "completion is null: expected a string"),
    ],
)  # fmt: skip
def test_malformed_conversations(
    write: Write, row: dict[str, Any], problem: str
) -> None:
    found = problems(write({"train.jsonl": [row]}))
    assert found == [f"train.jsonl:1: {problem}"]


def test_a_tool_call_needs_no_content(write: Write) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}
    row = {"messages": [{"role": "user", "content": "hi"}, call]}
    assert read(str(write({"train.jsonl": [row]}))).splits["train"] == [row]


def test_only_ten_problems_are_shown(write: Write) -> None:
    found = problems(write({"train.jsonl": [{"text": i} for i in range(25)]}))
    assert len(found) == 11
    assert found[-1] == "... and 15 more"


def test_two_formats_in_a_folder_are_refused(write: Write) -> None:
    folder = write({"train.jsonl": [{"text": "a"}], "train.txt": "a"})
    assert matches(str(folder))
    assert problems(folder)[0].endswith(
        "expected one format, found train.txt beside .jsonl files: keep one of the two"
    )


def test_wrong_names_are_told(write: Write) -> None:
    row = [{"text": "a"}]
    folder = write({"train.jsonl": row, "validation.jsonl": row}, "one")
    assert problems(folder) == [
        "validation.jsonl: expected the name valid.jsonl: rename it"
    ]
    folder = write({"validation.jsonl": row}, "two")
    assert matches(str(folder))
    assert problems(folder)[0].endswith(
        "expected train.jsonl, found only validation.jsonl"
    )
