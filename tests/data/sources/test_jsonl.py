from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data.sources import files, splits
from comigs_mlx.data.splits import RawSplits, place
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def read(source: str) -> RawSplits:
    """Read `source` as `load_splits` does."""
    plugin = splits if splits.matches(source) else files
    return plugin.read(source)


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
        "or text (--columns names others)"
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
    assert splits.matches(str(folder))
    assert problems(folder)[0].endswith(
        "expected one format, found train.txt beside .jsonl files: keep one of the two"
    )


@pytest.mark.parametrize("name", ["validation", "val", "dev", "Valid"])
def test_validation_rows_may_have_their_other_names(name: str, write: Write) -> None:
    folder = write({"train.jsonl": [{"text": "a"}], f"{name}.jsonl": [{"text": "b"}]})
    assert read(str(folder)).splits["valid"] == [{"text": "b"}]
    assert read(str(folder)).notes == []


def test_all_files_of_a_split_are_read_and_others_told(write: Write) -> None:
    row = [{"text": "a"}]
    names = ["train", "valid", "val", "extra"]
    folder = write({f"{name}.jsonl": row for name in names} | {"train.JSONL": row})
    found = read(str(folder))
    assert {name: len(part) for name, part in found.splits.items()} == {
        "train": 2,
        "valid": 2,
    }
    assert found.notes == [
        "valid is read from val.jsonl, valid.jsonl together",
        f"not read: extra.jsonl in {folder}, for they are not named train, valid or "
        "test",
    ]


def test_rows_without_train_are_told(write: Write) -> None:
    folder = write({"validation.jsonl": [{"text": "a"}]}, "two")
    assert splits.matches(str(folder))
    assert problems(folder)[0].endswith(
        "expected train.jsonl, found only validation.jsonl"
    )


@pytest.mark.parametrize(
    "empty",
    [
        {"text": ""},
        {"text": " \n\u200b"},
        {"prompt": " ", "completion": ""},
        {"messages": [{"role": "user", "content": ""}]},
    ],
)
def test_rows_without_text_are_skipped_and_counted(
    empty: dict[str, Any], write: Write
) -> None:
    filled = dict.fromkeys(empty, "a") if "messages" not in empty else CHAT
    folder = write({"train.jsonl": [filled, empty, empty], "valid.jsonl": [filled]})
    assert read(str(folder)).splits["train"] == [filled]
    assert read(str(folder)).notes == ["train: skipped 2 rows without text"]


def test_a_call_without_content_is_not_empty(write: Write) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}
    rows = [{"messages": [call]}]
    assert read(str(write({"train.jsonl": rows}))).splits["train"] == rows


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a", "id": ' + "9" * 5000 + "}", "a number has too many digits"),
        ('{"text": "a", "text": "b"}', 'the key "text" stands there twice'),
        ('{"text": "a"} {"text": "b"}', "Extra data"),
        ("{", "Expecting property name enclosed in double quotes"),
    ],
)
def test_what_parsers_choke_on_is_named_with_its_line(
    line: str, problem: str, write: Write
) -> None:
    folder = write({"train.jsonl": '{"text": "a"}\n' + line})
    assert problems(folder) == [f"train.jsonl:2: expected one JSON object: {problem}"]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"tools": [nested(200)]}, "it is too deeply nested"),
        ({"tools": ["\ud800"]}, "there is a string with half a character: "),
        ({"tools": [{"\ud800": 1}]}, "there is a string with half a character: "),
    ],
)
def test_what_templates_would_choke_on_is_named_with_its_line(
    more: dict[str, Any], problem: str, write: Write
) -> None:
    (found,) = problems(write({"train.jsonl": [{**CHAT, **more}]}))
    assert found.startswith(f"train.jsonl:1: {problem}")


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("Assistant", "assistant"),
        ("asistant", "assistant"),
        ("bot", "assistant"),
        ("gpt", "assistant"),
        ("assistant ", "assistant"),
        ("human", "user"),
        ("SYSTEM", "system"),
        ("xyz", "system, developer, user, assistant or tool"),
    ],
)
def test_roles_are_known_or_refused(role: str, wanted: str, write: Write) -> None:
    row = {"messages": [CHAT["messages"][0], {"role": role, "content": "a"}]}
    assert problems(write({"train.jsonl": [row]})) == [
        f'train.jsonl:1: message 2: role is "{role}": expected {wanted}'
    ]


def test_the_older_form_of_calls_is_read(write: Write) -> None:
    call = {"name": "look", "arguments": "{}"}
    messages = [
        CHAT["messages"][0],
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "look", "content": "sun"},
        {"role": "assistant", "content": "Sunny", "tool_calls": None},
    ]
    (row,) = read(str(write({"train.jsonl": [{"messages": messages}]}))).splits["train"]
    assert row["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "name": "look", "content": "sun"},
        {"role": "assistant", "content": "Sunny"},
    ]


def test_nulls_that_a_file_holds_stay(write: Write) -> None:
    call = {"name": "set", "arguments": {"limit": None}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{"messages": [CHAT["messages"][0], message]}]
    assert read(str(write({"train.jsonl": rows}))).splits["train"] == rows


def test_samples_know_their_places(write: Write) -> None:
    folder = write({"train.jsonl": '\n{"text": "a"}\n\n{"text": "b"}'})
    found = read(str(folder)).splits["train"]
    assert [place(sample) for sample in found] == [
        f"{folder}/train.jsonl:{line}" for line in (2, 4)
    ]
    assert place(copy.deepcopy(found[0])) == place(found[0])
    assert place({"text": "a"}) == ""
