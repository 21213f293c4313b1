from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comigs_mlx.data.formats.jsonl import read
from comigs_mlx.data.pieces import Skipped
from comigs_mlx.data.reading_options import DEFAULT

SAMPLES = {"rows.jsonl": '{"text": "a"}\n{"text": "b"}\n'}


def test_rows_and_what_is_blank(write: Callable[..., Path]) -> None:
    path = write({"a.jsonl": [{"text": "a"}, {"text": " "}]}) / "a.jsonl"
    assert list(read(path, DEFAULT)) == [
        {"text": "a"},
        Skipped("rows without text", str(path)),
    ]
