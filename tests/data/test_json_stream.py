from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx.data import json_stream
from comigs_mlx.data.json_stream import JsonStream, array, text
from comigs_mlx.errors import DataError

VALUES: list[Any] = [
    -12.5e3,
    1e-7,
    1234567890123,
    'a \\ "quote" \u2028 \U0001f600',
    {"a": [True, None, {}], "b": "x" * 50},
    [],
    False,
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_values_are_those_of_json_wherever_they_are_cut(
    chunk: int, ascii_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    written = json.dumps(VALUES, indent=1, ensure_ascii=ascii_only)
    stream = JsonStream(io.StringIO(written), "x")
    assert [stream.value() for _ in stream.items()] == VALUES
    assert stream.peek() == ""
    keyed = {f"k{i}": value for i, value in enumerate(VALUES)}
    stream = JsonStream(io.StringIO(json.dumps(keyed)), "x")
    assert {key: stream.value() for key in stream.fields()} == keyed


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    ("written", "line"),
    [("[1,\n 12.]", 2), ("[1\n 2]", 2), ("[\n\ntru]", 3), ('["\t"]', 1), ("", 1)],
)
def test_what_is_no_json_is_an_error_with_its_line(
    written: str, line: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    stream = JsonStream(io.StringIO(written), "x.json")
    with pytest.raises(DataError, match=rf"^x\.json:{line}: expected JSON: "):
        [stream.value() for _ in stream.items()]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_what_python_cannot_hold_is_an_error(value: str) -> None:
    stream = JsonStream(io.StringIO(f"[\n{value}]"), "x.json")
    with pytest.raises(DataError, match=r"^x\.json:2: expected JSON: (a|it) "):
        [stream.value() for _ in stream.items()]


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"[1, \xff]")
    with pytest.raises(DataError, match=r"x\.json:1: expected JSON: expected UTF-8"):
        list(array(tmp_path / "x.json"))


def test_half_characters_and_line_ends_are_mended() -> None:
    assert text(" a\r\nb\rc\0 \ud83d ") == "a\nb\nc ?"
    assert text(None) == text(5) == ""
