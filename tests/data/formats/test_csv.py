from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.config import from_dict
from comigs_mlx.data.formats.csv import read
from comigs_mlx.data.pieces import Remark, Skipped
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.splits import load_splits
from comigs_mlx.errors import ConfigError, DataError

SAMPLES = {"notes.csv": "id,body\n1,one\n2,two\n", "own.tsv": "text\tid\na\t1\n"}

QUOTED = 'title;"the; body";n\r\na;"one ""quoted""\r\n\r\nline; two";1\r\n\r\nb;;2\r\n'


def rows(folder: Path, name: str, columns: str = "") -> list[object]:
    return list(read(folder / name, Reading(columns=columns)))


def test_quotes_delimiters_and_places(write: Callable[..., Path]) -> None:
    folder = write({"a.csv": QUOTED, "b.csv": "sep=;\n" + QUOTED})
    for name, line in (("a.csv", 4), ("b.csv", 5)):
        found, blank = rows(folder, name, "text=the; body")
        assert found == {"text": 'one "quoted"\n\nline; two'}
        assert found.place == f"{folder}/{name}:{line}"
        assert blank == Skipped("rows without text", f"{folder}/{name}")


def test_pairs_conversations_and_own_names(write: Callable[..., Path]) -> None:
    talk = '[{""role"": ""user"", ""content"": ""hi""}]'
    folder = write(
        {"a.csv": f'q,answer,talk\nwho,me,"{talk}"\n', "b.csv": "text\nown\n"}
    )
    pair = rows(folder, "a.csv", "prompt=q,completion=answer")
    assert pair == [{"prompt": "who", "completion": "me"}]
    assert rows(folder, "a.csv", "messages=talk") == [
        {"messages": [{"role": "user", "content": "hi"}]}
    ]
    assert rows(folder, "b.csv", "messages=talk") == [{"text": "own"}]
    assert rows(folder, "b.csv") == [{"text": "own"}]


def test_windows_1252_is_said(write: Callable[..., Path]) -> None:
    folder = write({"a.csv": "text\ncafé".encode("cp1252")})
    remark, row = rows(folder, "a.csv")
    assert isinstance(remark, Remark)
    assert row == {"text": "café"}


@pytest.mark.parametrize(
    ("content", "columns", "problem"),
    [
        ("q,a\n1,2\n", "", ": found the columns q, a: say what is learnt with "
         "--columns text=COLUMN, or prompt=COLUMN,completion=COLUMN"),
        ("q,a\n1,2\n", "text=body", ": found the columns q, a: say "),
        ("text,n\na,1\nb\n", "", ":3: expected 2 columns, found 1"),
        ('text\n"a\n', "", ":2: no table: unexpected end of data"),
        ("a,a\n1,2\n", "text=a", ":1: two columns have one name: a, a"),
        ("c,n\n[1,1\n", "messages=c", ":2: c: expected one JSON object: "),
    ],
)  # fmt: skip
def test_errors(
    content: str, columns: str, problem: str, write: Callable[..., Path]
) -> None:
    folder = write({"a.csv": content})
    with pytest.raises(DataError) as error:
        rows(folder, "a.csv", columns)
    assert str(error.value).startswith(f"{folder}/a.csv{problem}")


def test_columns_of_jsonl_and_datasets(
    write: Callable[..., Path], datasets: dict[str, list[object]]
) -> None:
    mine = [{"body": f"text {i}", "n": i} for i in range(40)]
    datasets["o/n"] = {"train": mine}  # type: ignore[assignment]
    folder = write({"train.jsonl": mine}, "splits")
    file = write({"one.jsonl": mine}, "file") / "one.jsonl"
    for source in ("o/n", str(folder), str(file)):
        found = load_splits(source, reading=Reading(columns="text=body"))
        every = [*found.train, *found.valid, *found.test]
        assert sorted(s["text"] for s in every) == sorted(r["body"] for r in mine)
        with pytest.raises(DataError, match="found keys body, n: .*--columns"):
            load_splits(source, reading=DEFAULT)
    short = [*mine, {"n": 1}]
    with pytest.raises(DataError, match=r"jsonl:41: found the columns n: expected bo"):
        load_splits(
            str(write({"b.jsonl": short}, "short") / "b.jsonl"),
            reading=Reading(columns="text=body"),
        )


@pytest.mark.parametrize("columns", ["body", "text=", "prompt=a", "text=a,messages=b"])
def test_impossible_columns_are_refused(columns: str) -> None:
    with pytest.raises(ConfigError, match=f"--columns {columns}: write text=COLUMN"):
        from_dict(Reading, {"columns": columns})
